"""Budgets in slots and as shares of a document."""

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.budget import Budget


def test_budgets():
    assert Budget.parse(" 12.5% ").slots_for(4096, 1, 512) == (512 - 1) // 16 * 16
    assert Budget.parse("25%").slots_for(4096 + 511, 0, 512) == int(4607 / 4 - 511) // 16 * 16
    assert Budget.parse("512").slots_for(10, 0, 512) == 512
    for wrong in ("", "0", "15", "-4", "0%", "101%", "a%", "1.5"):
        with pytest.raises(Refusal):
            Budget.parse(wrong)
    with pytest.raises(Refusal, match="smaller --interval"):
        Budget.parse("25%").slots_for(1000, 0, 512)
