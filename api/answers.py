"""What answers look like."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from api.schemas import TaskKind
from api.tables import plain
from store.billing.budgets import Action, Period
from store.tables.job_states import State

Positions = Literal["absolute", "cache-relative"]
Number = Annotated[Decimal, PlainSerializer(plain, return_type=str)]  # never with an exponent


class Answered(BaseModel):
    """Base of everything the API answers with."""

    model_config = ConfigDict(from_attributes=True)


class DocumentOut(Answered):
    """An uploaded document."""

    id: str = Field(examples=["doc_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    sha256: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    bytes: int = Field(examples=[5_242_880])
    media_type: str = Field(examples=["text/plain"])
    name: str | None = Field(examples=["contract.txt"])
    created_at: datetime


class ProgressOut(Answered):
    """Where a running job stands, at most a second old."""

    phase: str = Field(examples=["reading"])
    tokens_done: int = Field(examples=[262_144])
    tokens_total: int | None = Field(examples=[1_000_000])
    tokens_per_second: float | None = Field(examples=[3_120.5])
    eta_seconds: float | None = Field(examples=[236.5])
    updated_at: datetime | None


class ErrorOut(Answered):
    """Why a job did not succeed."""

    code: str = Field(examples=["document_too_long"])
    message: str


class JobOut(Answered):
    """A job and where it stands."""

    id: str = Field(examples=["job_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    state: State
    held_by: str | None = Field(
        description="While it is queued: the crossed budget that keeps workers from taking it.",
        examples=["bud_06f3k2v5r8c4x1m7d9a0b2e6g8"],
    )
    document_id: str
    task: TaskKind
    prompts: list[str]
    template: str | None = Field(description="Of a summary.", examples=["summary@1"])
    bulk_id: str | None = Field(description="The bulk job it is a part of.")
    model: str
    model_revision: str | None
    policy: str
    scorer: str | None = Field(
        description="`name@version` once a worker has resolved it; until then as asked for."
    )
    scorer_sha256: str | None
    budget: int | None = Field(description="As asked for; null leaves it to the scorer. The bill has both.")
    max_output_tokens: int
    temperature: float
    seed: int
    priority: int
    deadline: datetime | None
    metadata: dict[str, str]
    attempt: int
    positions: Positions | None
    progress: ProgressOut | None
    error: ErrorOut | None
    timestamps: dict[str, datetime] = Field(examples=[{"created": "2027-01-31T18:00:00Z"}])


class JobPage(Answered):
    """A page of jobs, newest first."""

    data: list[JobOut]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` to get the page after this one.")


class PointOut(Answered):
    """A key point of a summary, with where the passage that it quotes stands in the document.

    Offsets are in characters from the document's start; lines and pages are counted from 1.
    """

    text: str
    quote: str = Field(description="What was looked for: the passage in quotation marks, else the point.")
    located: bool = Field(description="False: the document has no such passage, word for word.")
    start: int | None
    end: int | None
    line: int | None
    page: int | None = Field(description="Null for a document without form feeds.")
    occurrences: int = Field(description="How often it stands there; the place is that of the first.")


class AnswerOut(Answered):
    """What one prompt got."""

    prompt: str
    text: str
    tokens: int
    finish_reason: str | None = Field(examples=["stop"])
    points: list[PointOut] | None = Field(None, description="Of a summary's prompts only.")


class ResultOut(Answered):
    """The answers of a job; `complete` is false for what an expired or cancelled job left."""

    job_id: str
    state: State
    complete: bool
    answers: list[AnswerOut]
    usage: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class FigureOut(Answered):
    """One line of a bill, with where it comes from."""

    name: str = Field(examples=["cost"])
    quantity: Number = Field(examples=["0.0123"])
    unit: str = Field(
        description="second, token, byte, byte-second, device, share of full, or a currency.",
        examples=["USD"],
    )
    measurement: Literal["measured", "derived", "estimated"]
    method_version: str


class UsageLineOut(Answered):
    """One line of the append-only ledger."""

    attempt: int
    meter: str = Field(examples=["device_seconds.read"])
    quantity: Number
    unit: str
    measurement: Literal["measured", "derived", "estimated"]
    method_version: str
    waste: bool = Field(description="Work that no result came of, such as that of a lost worker.")
    unit_price: Number | None = Field(description="Null for a meter that has no price.")
    priced_unit: str | None = Field(description="What the price is for.", examples=["device-hour"])
    amount: Number | None = Field(description="Money for this line.", examples=["0.0000123457"])
    currency: str


class SettingOut(Answered):
    """What a document was read with."""

    mode: str | None = Field(examples=["budget"])
    budget: int | None = Field(description="Slots a head; null = no limit.", examples=[512])
    interval: int | None = Field(description="Tokens between evictions.", examples=[512])
    positions: Positions | None
    regime_matches: bool | None = Field(description="False where a scorer serves elsewhere than it evolved.")
    regime: str | None = Field(
        description="What then differs, in words.",
        examples=[
            "The scorer was evolved with 16 slots a head; served with 512 slots a head (by its manifest)."
        ],
    )


class CostOut(Answered):
    """What a job cost and saved; `final` is false while more lines may come."""

    job_id: str
    final: bool
    currency: str | None
    price_book: str | None = Field(description="In effect when the latest attempt was claimed.")
    price_per_device_hour: Number | None
    setting: SettingOut | None = Field(description="Null until a worker has begun to read.")
    summary: list[FigureOut]
    lines: list[UsageLineOut]


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


class ScorerOut(Answered):
    """A scorer that comes with a model."""

    name: str
    version: str
    sha256: str


class ServingWorkerOut(Answered):
    """A live worker that serves a model."""

    id: str = Field(examples=["wrk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    revision: str | None = Field(description="Of the model it has loaded; jobs pin it.")
    loaded_at: datetime | None = Field(description="Null until it has loaded the model.")


class ModelOut(Answered):
    """A model that a worker has registered."""

    name: str = Field(examples=["bundled"])
    revision: str | None
    window: int | None = Field(description="Positions the model was trained on.", examples=[2048])
    vocab_size: int | None
    dense_bytes_per_token: int | None = Field(description="Of KV cache, if nothing were pruned.")
    tokenizer_sha256: str | None
    policies: list[str] | None = Field(description="Null until a worker has loaded the model.")
    scorers: list[ScorerOut] | None
    workers_live: int = Field(description="0 = a job for this model waits until a worker is back.")
    loaded: bool = Field(description="By at least one live worker.")
    errors: list[str] = Field(description="Why live workers could not load it.")
    workers: list[ServingWorkerOut] = Field(description="The live ones; revisions differ during a change.")


class ModelList(Answered):
    """All models, and the service's limits."""

    data: list[ModelOut]
    default_policy: str
    max_document_bytes: int
    max_output_tokens: int


class CheckOut(Answered):
    """One thing that readiness looks at."""

    ok: bool
    detail: str | None = None


class ReadyOut(Answered):
    """Whether jobs can be taken and worked on now."""

    ready: bool
    checks: dict[str, CheckOut]


class HealthOut(Answered):
    """The process answers."""

    status: Literal["ok"] = "ok"


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
