"""Jobs in requests and responses: the job, its result, its cost."""

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
    Deadline,
    DocumentId,
    ErrorOut,
    Metadata,
    Name,
    Page,
    Prompt,
    RequestModel,
    ResponseModel,
    TemplateName,
    Text,
)
from store.jobs.admission import Ask
from store.tables.job_states import State

ScorerName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9._-]{1,99})?$")
]


Reading = Literal["guided", "open"]
OnRisk = Literal["report", "reread"]


class TaskKind(StrEnum):
    """What to do with the document."""

    ASK = "ask"
    SUMMARIZE = "summarize"
    PROMPT = "prompt"


class Work(RequestModel):
    """What to do with a document."""

    task: TaskKind = TaskKind.ASK
    questions: list[Prompt] = Field(
        default_factory=list,
        max_length=1024,
        description="For `ask`, or in addition to a summary: each is answered separately, from one reading.",
    )
    prompt: Prompt | None = Field(None, description="For `prompt`: the prompt, in your own words.")
    template: TemplateName | None = Field(
        None,
        description="For `summarize`: `name` or `name@version` of the prompt. Default: the model's.",
        examples=["summary@1"],
    )
    points: int = Field(5, ge=1, le=50, description="For `summarize`: the number of key points.")
    words: int | None = Field(None, ge=10, le=5000, description="For `summarize`: the total number of words.")
    model: Name | None = Field(
        None, description="A name from GET /v1/models. Optional if live workers serve only one."
    )
    policy: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")] | None = Field(
        None,
        description="How the KV cache is pruned. Default: the model's, see GET /v1/models.",
        examples=["namm-key"],
    )
    scorer: ScorerName | None = Field(None, description="`name` or `name@version`.", examples=["namm-key@1"])
    cache_budget: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="Slots each KV head may keep. Default: the service's, if set, else what the scorer was "
        "validated with, else 512.",
    )
    reading: Reading | None = Field(
        None,
        description="`guided`: what the cache keeps depends on the prompts too, so more of what they ask for "
        "is found. `open`: as if they were not known yet. Default: the service's, `guided` unless set.",
    )
    on_risk: OnRisk = Field(
        "report",
        description="If much of what a prompt attends to was evicted: only `report` it with the answer, or "
        "`reread` the document with a larger cache, which is billed. `reread` needs a guided reading.",
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
        description="Per prompt. Default: 64, or enough for the words of a summary.",
    )
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 means greedy decoding.")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")
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
            raise PydanticCustomError("questions_choice", "The task 'ask' requires questions")
        if self.task is TaskKind.PROMPT and self.questions:
            raise PydanticCustomError("questions_choice", "The task 'prompt' does not take questions")
        if (self.task is TaskKind.PROMPT) != (self.prompt is not None):
            raise PydanticCustomError(
                "prompt_choice", "The task 'prompt' requires a prompt, and no other task takes one"
            )
        given = self.model_fields_set & {"template", "points", "words"}
        if given and self.task is not TaskKind.SUMMARIZE:
            raise PydanticCustomError(
                "summary_choice",
                "Only the task 'summarize' takes {field}",
                {"field": ", ".join(sorted(given))},
            )
        return self

    def ask(self, deadline_at: datetime | None = None) -> Ask:
        """The request in the store's form."""
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
            reading=self.reading,
            on_risk=self.on_risk,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            seed=self.seed,
            priority=self.priority,
            deadline_at=deadline_at,
            metadata=dict(self.metadata),
        )


class JobCreate(Work):
    """A job: one document, by id or as text, and what to do with it."""

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

    document_id: DocumentId | None = Field(None, description="The id of an uploaded document.")
    text: Text | None = Field(None, description="The text of a short document, instead of an id.")
    deadline: Deadline | None = Field(
        None, description="An RFC 3339 time, or seconds from now; at most 30 days ahead."
    )

    @model_validator(mode="after")
    def _one_document(self) -> Self:
        if (self.document_id is None) == (self.text is None):
            raise PydanticCustomError("document_choice", "Give exactly one of document_id and text")
        return self


Positions = Literal["absolute", "cache-relative"]


class ProgressOut(ResponseModel):
    """Progress of a running job, at most a second old."""

    phase: str = Field(examples=["reading"])
    tokens_done: int = Field(examples=[262_144])
    tokens_total: int | None = Field(examples=[1_000_000])
    tokens_per_second: float | None = Field(examples=[3_120.5])
    eta_seconds: float | None = Field(examples=[236.5])
    updated_at: datetime | None


def work_out(stored: dict[str, Any]) -> dict[str, Any]:
    """What is asked of each document, as bulk jobs and schedules store it, in the API's form."""
    values = {name: value for name, value in stored.items() if value is not None}
    slots = values.get("cache_budget", values.get("budget"))
    return (
        values if slots is None else values | {"cache_budget": slots, "budget": slots}
    )  # its former name too


class CacheBudgetOut(ResponseModel):
    """Something with a `cache_budget`, which one more version also returns under its former name."""

    cache_budget: int | None

    @computed_field(description="The former name of `cache_budget`.", json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]
    @property
    def budget(self) -> int | None:
        return self.cache_budget


class JobOut(CacheBudgetOut):
    """A job and its state."""

    id: str = Field(examples=["job_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    state: State
    held_by: str | None = Field(
        description="While queued: the crossed budget that keeps it from running.",
        examples=["bud_06f3k2v5r8c4x1m7d9a0b2e6g8"],
    )
    document_id: str
    task: TaskKind
    prompts: list[str]
    template: str | None = Field(description="For a summary.", examples=["summary@1"])
    bulk_id: str | None = Field(description="The bulk job it belongs to.")
    model: str
    model_revision: str | None
    policy: str
    # Responses that are repeated for an idempotency key may be from before this and the next two.
    policy_reason: str | None = Field(
        None, description="Why this policy. It may be chosen anew until a worker has claimed the job."
    )
    reading: Reading = "open"
    on_risk: OnRisk = "report"
    scorer: str | None = Field(
        description="`name@version` once a worker has resolved it; until then as requested."
    )
    scorer_sha256: str | None
    cache_budget: int | None = Field(
        validation_alias=AliasChoices("cache_budget", "budget"),  # as in responses stored before the rename
        description="As requested; null leaves it to the scorer. The cost shows what was used.",
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
