"""Budgets in requests and answers."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.schemas import Answered, Asked, Number, Text
from store.billing.budgets import Action, Period


class BudgetOut(Answered):
    """A budget and where it stands in the period that contains now."""

    id: str = Field(examples=["bud_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    project: str | None
    api_key_id: str | None
    period: Period
    timezone: str = Field(examples=["Europe/Berlin"])
    amount: Number = Field(examples=["250"])
    currency: str = Field(examples=["USD"])
    action: Action
    spent: Number = Field(description="Booked in the period, and by running jobs as last reported.")
    remaining: Number
    crossed: bool
    period_start: datetime
    period_end: datetime
    created_at: datetime


class BudgetList(Answered):
    """Your budgets, the newest first."""

    data: list[BudgetOut]


def _exact(value: Any) -> Any:
    # A JSON number would have gone through binary floating point before it came here.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("amount_type", 'An amount is written as a string, such as "12.50"')
    return value


Amount = Annotated[
    Decimal,
    Field(gt=0, max_digits=28, decimal_places=10),
    BeforeValidator(_exact, json_schema_input_type=str),
]


class BudgetCreate(Asked):
    """What may be spent in a period by all your jobs, by those of a project, or by those of an API key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"amount": "250", "period": "month", "action": "queue", "timezone": "Europe/Berlin"},
                {"amount": "5.50", "period": "day", "action": "notify", "project": "reports"},
            ]
        }
    )

    amount: Amount = Field(description="A decimal number as a string, of at most 10 decimals.")
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = Field(
        None, description="That of a price book; of the one in effect when left out.", examples=["USD"]
    )
    period: Period = Field(description="By the zone's calendar; weeks begin on Monday.")
    timezone: Annotated[Text, StringConstraints(min_length=1, max_length=100)] = Field(
        "UTC", description="An IANA name."
    )
    action: Action = Field(
        description="Once it is crossed: `notify` only tells you, `queue` makes jobs wait, `reject` refuses "
        "new ones and ends running ones."
    )
    project: Annotated[Text, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="Only jobs of this project."
    )
    api_key_id: Annotated[str, StringConstraints(pattern=r"^key_[0-9a-z]{1,40}$")] | None = Field(
        None, description="Only jobs submitted with this key; not together with a project."
    )

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.project is not None and self.api_key_id is not None:
            raise PydanticCustomError("scope_choice", "Give a project or an api_key_id, or neither")
        return self
