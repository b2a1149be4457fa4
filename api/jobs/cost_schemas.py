"""What a job cost and saved, in responses."""

from typing import Literal

from pydantic import (
    Field,
)

from api.jobs.schemas import CacheBudgetOut, Positions
from api.schemas import (
    Number,
    ResponseModel,
)


class FigureOut(ResponseModel):
    """A figure of a job's cost, with its provenance."""

    name: str = Field(examples=["cost"])
    quantity: Number = Field(examples=["0.0123"])
    unit: str = Field(
        description="second, token, byte, byte-second, device, share of full, or a currency.",
        examples=["USD"],
    )
    measurement: Literal["measured", "derived", "estimated"]
    method_version: str


class UsageLineOut(ResponseModel):
    """One line of the append-only ledger."""

    attempt: int
    meter: str = Field(examples=["device_seconds.read"])
    quantity: Number
    unit: str
    measurement: Literal["measured", "derived", "estimated"]
    method_version: str
    waste: bool = Field(description="Work that led to no result, such as that of a lost worker.")
    unit_price: Number | None = Field(description="Null for a meter without a price.")
    priced_unit: str | None = Field(description="The unit of the price.", examples=["device-hour"])
    amount: Number | None = Field(description="The cost of this line.", examples=["0.0000123457"])
    currency: str


class SettingOut(CacheBudgetOut):
    """How a document was read."""

    mode: str | None = Field(examples=["budget"])
    cache_budget: int | None = Field(description="Slots per KV head; null = no limit.", examples=[512])
    interval: int | None = Field(description="Tokens between evictions.", examples=[512])
    positions: Positions | None
    regime_matches: bool | None = Field(
        description="False if the scorer is used differently from how it was evolved."
    )
    regime: str | None = Field(
        description="The differences, in words.",
        examples=[
            "The scorer was evolved with 16 slots a head; served with 512 slots a head (by its manifest)."
        ],
    )
    reading: Literal["guided", "open"] | None = Field(
        description="`guided`: what was kept depended on the prompts."
    )
    rereads: int | None = Field(description="How often it was read again with a larger cache.")


class CostOut(ResponseModel):
    """What a job cost and saved; `final` is false while more lines may follow."""

    job_id: str
    final: bool
    currency: str | None
    price_book: str | None = Field(description="The one in effect when the latest attempt was claimed.")
    price_per_device_hour: Number | None
    setting: SettingOut | None = Field(description="Null until a worker has started to read.")
    no_saving: str | None = Field(
        description="Why nothing was saved: then no saving is claimed or lost.",
        examples=["No saving: the document fits in the cache."],
    )
    summary: list[FigureOut]
    lines: list[UsageLineOut]
