"""What answers about the outcomes of a scorer's versions look like."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer

from api.http.tabular import plain
from api.schemas import Answered

Number = Annotated[Decimal, PlainSerializer(plain, return_type=str)]
Share = Annotated[float, Field(ge=0, le=1)]


class RateOut(Answered):
    """A share with its 95 % interval by Wilson."""

    value: Share = Field(examples=[0.02])
    low: Share = Field(examples=[0.0055])
    high: Share = Field(examples=[0.07])


class EndsOut(Answered):
    """Jobs by how they ended."""

    succeeded: int = Field(examples=[98])
    failed: int = Field(examples=[2])
    cancelled: int
    expired: int


class MoneyOut(Answered):
    """Amounts in one currency, which are never added to those in another; null where no bill says."""

    currency: str = Field(examples=["USD"])
    cost: Number | None = Field(examples=["1.0416666667"])
    saving_allocated: Number | None
    saving_realised: Number | None


class ShadowsOut(Answered):
    """Jobs that the version read beside the one that answered."""

    runs: int = Field(description="Those that were made.", examples=[40])
    failed: int = Field(description="Of these, those that broke: they agree with nothing.")
    not_made: int = Field(
        description="Beside these: the version or the document was not at hand. They count for nothing."
    )
    answers: int = Field(examples=[120])
    agreed: int = Field(description="Answers that were the same, character for character.", examples=[114])
    agreement: RateOut | None = Field(description="Null without answers.")


class OutcomeOut(Answered):
    """What came of a version in the interval."""

    scorer: str = Field(examples=["namm@3"])
    version: str = Field(examples=["3"])
    state: str | None = Field(
        description="Of the version in the registry; null for one that is not there.", examples=["active"]
    )
    sha256: str | None = Field(description="Of its scorer.safetensors, where the registry has it.")
    jobs: EndsOut
    failure_rate: RateOut | None = Field(description="Of the jobs that failed or succeeded.")
    kept: float | None = Field(
        description="Share of their documents' tokens that jobs that succeeded kept.", examples=[0.125]
    )
    device_seconds: Number = Field(description="Of all attempts.", examples=["3750.5"])
    score_seconds: Number = Field(description="What the scorer took of them.", examples=["102.25"])
    score_share: float | None = Field(examples=[0.0273])
    scorer_quality: float | None = Field(
        description="Share of a full cache's score that the scorer is known for; the mean over jobs.",
        examples=[0.97],
    )
    money: list[MoneyOut]
    shadow: ShadowsOut
    evaluation: dict[str, Any] | None = Field(
        description="What `namm evaluate` wrote about it, where that was attached."
    )


class OutcomeList(Answered):
    """Versions of a scorer side by side."""

    object: Literal["list"] = "list"
    name: str = Field(examples=["namm"])
    start_time: datetime
    end_time: datetime
    data: list[OutcomeOut]
