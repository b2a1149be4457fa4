"""Reports in answers."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas import Answered


class MeasureOut(Answered):
    """One figure of a report, with how it is known."""

    value: str | None = Field(
        description="A decimal number; null where no bill says.", examples=["0.0017083333"]
    )
    unit: str = Field(
        description="job, attempt, second, token, byte, byte-second, device, share of full, or a currency.",
        examples=["USD"],
    )
    measurement: Literal["measured", "derived", "estimated"]


class ReportRowOut(Answered):
    """One group of a bucket; amounts in different currencies are never added up."""

    group: dict[str, str | None] = Field(
        description="Null where a bill has no such value.", examples=[{"model": "bundled"}]
    )
    currency: str = Field(examples=["USD"])
    metrics: dict[str, MeasureOut]


class BucketOut(Answered):
    """A stretch of time. The first and the last may be shorter than the others."""

    start_time: datetime
    end_time: datetime
    results: list[ReportRowOut] = Field(description="Empty where nothing was booked.")


class ReportPage(Answered):
    """A page of a report: its buckets in order, without gaps."""

    object: Literal["page"] = "page"
    as_of: datetime = Field(description="Only what was booked before is counted, on all pages.")
    data: list[BucketOut]
    has_more: bool
    next_page: str | None = Field(description="Give it as `page`, with the same query, to get the next one.")
