"""Jobs in requests and answers: the job, its result, its cost."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    StringConstraints,
    computed_field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.schemas import (
    MAX_METADATA,
    Answered,
    Asked,
    Deadline,
    DocumentId,
    ErrorOut,
    Metadata,
    Name,
    Number,
    Page,
    Prompt,
    TemplateName,
    Text,
)
from store.jobs.admission import Ask
from store.tables.job_states import State

ScorerName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9._-]{1,99})?$")
]


class TaskKind(StrEnum):
    """What is done with the document."""

    ASK = "ask"
    SUMMARIZE = "summarize"
    PROMPT = "prompt"


class Work(Asked):
    """What is to be done with a document, whichever it is."""

    task: TaskKind = TaskKind.ASK
    questions: list[Prompt] = Field(
        default_factory=list,
        max_length=1024,
        description="For `ask`, and beside a summary: each is answered on its own from the same reading.",
    )
    prompt: Prompt | None = Field(None, description="For `prompt`: what is to be done, in your words.")
    template: TemplateName | None = Field(
        None,
        description="For `summarize`: `name` or `name@version` of the prompt; left out, the model's default.",
        examples=["summary@1"],
    )
    points: int = Field(5, ge=1, le=50, description="For `summarize`: how many key points.")
    words: int | None = Field(None, ge=10, le=5000, description="For `summarize`: how many words in all.")
    model: Name | None = Field(
        None, description="A name from GET /v1/models; may be left out when live workers serve only one."
    )
    policy: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")] | None = Field(
        None,
        description="How the memory is pruned; the service's default when left out.",
        examples=["namm-key"],
    )
    scorer: ScorerName | None = Field(None, description="`name` or `name@version`.", examples=["namm-key@1"])
    cache_budget: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="Entries each KV head may keep; left out, the service's default if it has one, else what "
        "the scorer was validated with, else 512.",
    )
    budget: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="The former name of `cache_budget`.",
        json_schema_extra={"deprecated": True},
    )
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="For each prompt; left out, 64, and for a summary what its words need.",
    )
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 is greedy.")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first.")
    metadata: Metadata = Field(default_factory=dict, max_length=MAX_METADATA)

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.budget is not None and self.cache_budget is not None:
            raise PydanticCustomError(
                "cache_budget_choice", "Give cache_budget or its former name budget, not both"
            )
        return self

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        if self.task is TaskKind.ASK and not self.questions:
            raise PydanticCustomError("questions_choice", "The task 'ask' needs questions")
        if self.task is TaskKind.PROMPT and self.questions:
            raise PydanticCustomError("questions_choice", "The task 'prompt' takes no questions")
        if (self.task is TaskKind.PROMPT) != (self.prompt is not None):
            raise PydanticCustomError(
                "prompt_choice", "The task 'prompt' needs a prompt, and only 'prompt' takes one"
            )
        given = self.model_fields_set & {"template", "points", "words"}
        if given and self.task is not TaskKind.SUMMARIZE:
            raise PydanticCustomError(
                "summary_choice", "Only 'summarize' takes {field}", {"field": ", ".join(sorted(given))}
            )
        return self

    def ask(self, deadline_at: datetime | None = None) -> Ask:
        """The same for the store."""
        return Ask(
            task=self.task.value,
            questions=tuple(self.questions),
            prompt=self.prompt,
            template=self.template,
            points=self.points,
            words=self.words,
            model=self.model,
            policy=self.policy,
            scorer=self.scorer,
            cache_budget=self.budget if self.cache_budget is None else self.cache_budget,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            seed=self.seed,
            priority=self.priority,
            deadline_at=deadline_at,
            metadata=dict(self.metadata),
        )


class JobCreate(Work):
    """A job: one document, given by its id or as text, and what is to be done with it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "document_id": "doc_06f3k2v5r8c4x1m7d9a0b2e6g8",
                    "task": "ask",
                    "questions": ["What is the penalty for late delivery?"],
                    "max_output_tokens": 64,
                },
                {"text": "A short text to try things with.", "task": "summarize", "deadline": 600},
            ]
        }
    )

    document_id: DocumentId | None = Field(None, description="Of a document uploaded before.")
    text: Text | None = Field(None, description="The document itself, instead of an id; for short ones.")
    deadline: Deadline | None = Field(
        None, description="RFC 3339, or seconds from now; at most 30 days away."
    )

    @model_validator(mode="after")
    def _one_document(self) -> Self:
        if (self.document_id is None) == (self.text is None):
            raise PydanticCustomError("document_choice", "Give either document_id or text")
        return self


Positions = Literal["absolute", "cache-relative"]


class ProgressOut(Answered):
    """Where a running job stands, at most a second old."""

    phase: str = Field(examples=["reading"])
    tokens_done: int = Field(examples=[262_144])
    tokens_total: int | None = Field(examples=[1_000_000])
    tokens_per_second: float | None = Field(examples=[3_120.5])
    eta_seconds: float | None = Field(examples=[236.5])
    updated_at: datetime | None


class CacheBudgetOut(Answered):
    """What has a `cache_budget`; for one more version it can be read under its former name too."""

    cache_budget: int | None

    @computed_field(description="The former name of `cache_budget`.", json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]
    @property
    def budget(self) -> int | None:
        return self.cache_budget


class JobOut(CacheBudgetOut):
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
    cache_budget: int | None = Field(
        validation_alias=AliasChoices("cache_budget", "budget"),  # answers stored for their key of before
        description="As asked for; null leaves it to the scorer. The bill has both.",
    )
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


class JobPage(Page):
    """A page of jobs, newest first."""

    data: list[JobOut]


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


class SettingOut(CacheBudgetOut):
    """What a document was read with."""

    mode: str | None = Field(examples=["budget"])
    cache_budget: int | None = Field(description="Slots a head; null = no limit.", examples=[512])
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
