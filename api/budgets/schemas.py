"""Budgets in requests and responses."""

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

from api.schemas import Number, RequestModel, ResponseModel, Text
from store.billing.budgets import Action, Period


class BudgetOut(ResponseModel):
    """A budget and what is spent of it in the current period."""

    id: str = Field(examples=["bud_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    project: str | None
    api_key_id: str | None
    period: Period
    timezone: str = Field(examples=["Europe/Berlin"])
    amount: Number = Field(examples=["250"])
    currency: str = Field(examples=["USD"])
    action: Action
    spent: Number = Field(description="Booked in the period, plus the cost of running jobs as last reported.")
    remaining: Number
    crossed: bool
    period_start: datetime
    period_end: datetime
    created_at: datetime


class BudgetList(ResponseModel):
    """Your budgets, the newest first."""

    data: list[BudgetOut]


def _exact(value: Any) -> Any:
    # A JSON number would have passed through binary floating point.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("amount_type", 'An amount must be a string, such as "12.50"')
    return value


Amount = Annotated[
    Decimal,
    Field(gt=0, max_digits=28, decimal_places=10),
    BeforeValidator(_exact, json_schema_input_type=str),
]


class BudgetCreate(RequestModel):
    """A limit on spending in a period: by all your jobs, by a project, or by an API key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"amount": "250", "period": "month", "action": "queue", "timezone": "Europe/Berlin"},
                {"amount": "5.50", "period": "day", "action": "notify", "project": "reports"},
            ]
        }
    )

    amount: Amount = Field(description="A decimal number as a string, with at most 10 decimals.")
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = Field(
        None, description="The currency of a price book. Default: of the one in effect.", examples=["USD"]
    )
    period: Period = Field(description="A calendar period in the time zone; weeks start on Monday.")
    timezone: Annotated[Text, StringConstraints(min_length=1, max_length=100)] = Field(
        "UTC", description="An IANA name."
    )
    action: Action = Field(
        description="Once it is crossed: `notify` only sends an event, `queue` makes jobs wait, `reject` "
        "refuses new jobs and ends running ones."
    )
    project: Annotated[Text, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="Only count jobs of this project."
    )
    api_key_id: Annotated[str, StringConstraints(pattern=r"^key_[0-9a-z]{1,40}$")] | None = Field(
        None, description="Only count jobs submitted with this key; not together with a project."
    )

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.project is not None and self.api_key_id is not None:
            raise PydanticCustomError("scope_choice", "Give at most one of project and api_key_id")
        return self
