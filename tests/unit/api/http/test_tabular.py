"""How answers write numbers."""

from decimal import Decimal

import pytest

from api.jobs.cost_schemas import FigureOut


@pytest.mark.parametrize(
    ("value", "shown"),
    [("2.03E-8", "0.0000000203"), ("0E-10", "0"), ("1E+3", "1000"), ("-0.50", "-0.5"), ("12", "12")],
)
def test_numbers_are_plain_digits(value: str, shown: str) -> None:
    figure = FigureOut(
        name="cost", quantity=Decimal(value), unit="USD", measurement="derived", method_version="cost-2"
    )
    assert figure.model_dump(mode="json")["quantity"] == shown
