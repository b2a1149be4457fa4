"""What requests look like. Unknown fields are refused and every number has bounds."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from store.billing.budgets import Action, Period
from store.jobs.admission import Ask

MAX_DEADLINE = timedelta(days=30)
MAX_PROMPT_CHARACTERS = 32_768
MAX_METADATA = 16
RESERVED = frozenset({"collection_id", "schedule_id"})  # reports group by them; a schedule chooses a scorer
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_character", "The character U+0000 is not text")
    return text


def _prompt(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "There is nothing but white space here")
    return text


def _free(metadata: dict[str, str]) -> dict[str, str]:
    if RESERVED & metadata.keys():
        names = " and ".join(f"'{name}'" for name in sorted(RESERVED))
        raise PydanticCustomError("reserved_metadata", "{names} are set by the service", {"names": names})
    return metadata


def _rfc3339(text: str, kind: str) -> datetime:
    if not _RFC3339.fullmatch(text):
        raise PydanticCustomError(
            f"{kind}_format",
            "Not an RFC 3339 time with an offset, such as 2027-01-31T18:00:00Z",
        )
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(f"{kind}_format", "There is no such day or time") from None


def _time(value: Any) -> datetime:
    """A time in RFC 3339 of years in which every zone's calendar can be counted on."""
    moment = _rfc3339(value if isinstance(value, str) else "", "time")
    if not EARLIEST <= moment <= LATEST:
        raise PydanticCustomError("time_range", "A time lies between the years 1970 and 2999")
    return moment


def _moment(value: Any) -> datetime:
    """A deadline in RFC 3339, or a number of seconds from now."""
    now = datetime.now(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError(
            "deadline_type", "A deadline is an RFC 3339 time or a number of seconds from now"
        )
    if isinstance(value, str):
        moment = _rfc3339(value, "deadline")
    elif 0 < value <= MAX_DEADLINE.total_seconds():
        moment = now + timedelta(seconds=value)
    else:
        raise PydanticCustomError("deadline_range", "A deadline lies between now and 30 days from now")
    if not now < moment <= now + MAX_DEADLINE:
        raise PydanticCustomError("deadline_range", "A deadline lies between now and 30 days from now")
    return moment


Text = Annotated[str, AfterValidator(_no_nul)]
Prompt = Annotated[Text, StringConstraints(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_prompt)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
ScorerName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9._-]{1,99})?$")
]
MetadataKey = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], AfterValidator(_free)]
_Seconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE.total_seconds())]
_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Time = Annotated[datetime, BeforeValidator(_time, json_schema_input_type=_Time)]
Deadline = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=_Time | _Seconds)]


class TaskKind(StrEnum):
    """What is done with the document."""

    ASK = "ask"
    SUMMARIZE = "summarize"
    PROMPT = "prompt"


class Asked(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=8 * 1024 * 1024)


def _exact(value: Any) -> Any:
    # A JSON number would have gone through binary floating point before it came here.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("amount_type", 'An amount is written as a string, such as "12.50"')
    return value


Amount = Annotated[
    Decimal,
    Field(gt=0, max_digits=28, decimal_places=10),
    BeforeValidator(_exact, json_schema_input_type=str),
]


class BudgetCreate(Asked):
    """What may be spent in a period by all your jobs, by those of a project, or by those of an API key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"amount": "250", "period": "month", "action": "queue", "timezone": "Europe/Berlin"},
                {"amount": "5.50", "period": "day", "action": "notify", "project": "reports"},
            ]
        }
    )

    amount: Amount = Field(description="A decimal number as a string, of at most 10 decimals.")
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = Field(
        None, description="That of a price book; of the one in effect when left out.", examples=["USD"]
    )
    period: Period = Field(description="By the zone's calendar; weeks begin on Monday.")
    timezone: Annotated[Text, StringConstraints(min_length=1, max_length=100)] = Field(
        "UTC", description="An IANA name."
    )
    action: Action = Field(
        description="Once it is crossed: `notify` only tells you, `queue` makes jobs wait, `reject` refuses "
        "new ones and ends running ones."
    )
    project: Annotated[Text, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="Only jobs of this project."
    )
    api_key_id: Annotated[str, StringConstraints(pattern=r"^key_[0-9a-z]{1,40}$")] | None = Field(
        None, description="Only jobs submitted with this key; not together with a project."
    )

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.project is not None and self.api_key_id is not None:
            raise PydanticCustomError("scope_choice", "Give a project or an api_key_id, or neither")
        return self


TEMPLATE_NAME = r"[a-z0-9][a-z0-9-]{0,49}"
TemplateName = Annotated[str, StringConstraints(pattern=rf"^{TEMPLATE_NAME}(@[1-9][0-9]{{0,5}})?$")]


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
    budget: int | None = Field(
        None,
        ge=16,
        le=1_048_576,
        description="Entries each KV head may keep; left out, the service's default if it has one, else what "
        "the scorer was validated with, else 512.",
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
            budget=self.budget,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            seed=self.seed,
            priority=self.priority,
            deadline_at=deadline_at,
            metadata=dict(self.metadata),
        )


DocumentId = Annotated[str, StringConstraints(pattern=r"^doc_[0-9a-z]{1,40}$")]


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
