"""Reports in responses."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas import ResponseModel


class MeasureOut(ResponseModel):
    """One figure of a report, with its provenance."""

    value: str | None = Field(
        description="A decimal number; null if no bill has it.", examples=["0.0017083333"]
    )
    unit: str = Field(
        description="job, attempt, second, token, byte, byte-second, device, share of full, or a currency.",
        examples=["USD"],
    )
    measurement: Literal["measured", "derived", "estimated"]


class ReportRowOut(ResponseModel):
    """One group of a bucket; amounts in different currencies are never added."""

    group: dict[str, str | None] = Field(
        description="Null if the bills have no such value.", examples=[{"model": "bundled"}]
    )
    currency: str = Field(examples=["USD"])
    metrics: dict[str, MeasureOut]


class BucketOut(ResponseModel):
    """A time span. The first and the last may be shorter than the others."""

    start_time: datetime
    end_time: datetime
    results: list[ReportRowOut] = Field(description="Empty if nothing was booked.")


class ReportPage(ResponseModel):
    """A page of a report: consecutive buckets."""

    object: Literal["page"] = "page"
    as_of: datetime = Field(description="Only bills booked before it count, on all pages.")
    data: list[BucketOut]
    has_more: bool
    next_page: str | None = Field(description="Pass it as `page`, with the same query, to get the next page.")
