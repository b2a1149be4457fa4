"""Outcomes of scorer versions in responses."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas import Number, ResponseModel

Share = Annotated[float, Field(ge=0, le=1)]


class RateOut(ResponseModel):
    """A share with its 95 % Wilson interval."""

    value: Share = Field(examples=[0.02])
    low: Share = Field(examples=[0.0055])
    high: Share = Field(examples=[0.07])


class EndsOut(ResponseModel):
    """Jobs by how they ended."""

    succeeded: int = Field(examples=[98])
    failed: int = Field(examples=[2])
    cancelled: int
    expired: int


class MoneyOut(ResponseModel):
    """Amounts in one currency, never added to those in another; null if no bill has the figure."""

    currency: str = Field(examples=["USD"])
    cost: Number | None = Field(examples=["1.0416666667"])
    saving_allocated: Number | None
    saving_realised: Number | None


class ShadowsOut(ResponseModel):
    """Shadow runs of the version."""

    runs: int = Field(description="Shadow runs that were made.", examples=[40])
    failed: int = Field(description="Among these, failed runs, counted as disagreement.")
    not_made: int = Field(
        description="Runs not made because the version or the document was unavailable; they do not count."
    )
    answers: int = Field(examples=[120])
    agreed: int = Field(
        description="Answers identical to the stable version's, character for character.", examples=[114]
    )
    agreement: RateOut | None = Field(description="Null without answers.")


class OutcomeOut(ResponseModel):
    """The outcome of a version in the interval."""

    scorer: str = Field(examples=["namm@3"])
    version: str = Field(examples=["3"])
    state: str | None = Field(
        description="The version's state in the registry; null if it is not there.", examples=["active"]
    )
    sha256: str | None = Field(
        description="Of its scorer.safetensors; null if the registry does not have it."
    )
    jobs: EndsOut
    failure_rate: RateOut | None = Field(description="Among jobs that failed or succeeded.")
    kept: float | None = Field(
        description="Share of the documents' tokens kept at the end, over jobs that succeeded.",
        examples=[0.125],
    )
    device_seconds: Number = Field(description="Over all attempts.", examples=["3750.5"])
    score_seconds: Number = Field(
        description="Time in the scorer, part of device_seconds.", examples=["102.25"]
    )
    score_share: float | None = Field(examples=[0.0273])
    scorer_quality: float | None = Field(
        description="Evaluated share of a full cache's score that the scorer keeps; mean over jobs.",
        examples=[0.97],
    )
    money: list[MoneyOut]
    shadow: ShadowsOut
    evaluation: dict[str, Any] | None = Field(description="Output of `namm evaluate`, if attached.")


class OutcomeList(ResponseModel):
    """Versions of a scorer side by side."""

    object: Literal["list"] = "list"
    name: str = Field(examples=["namm"])
    start_time: datetime
    end_time: datetime
    data: list[OutcomeOut]
