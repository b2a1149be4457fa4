"""A job's answers in responses."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.jobs.schemas import Reading
from api.schemas import ResponseModel
from store.tables.job_states import State


class PointOut(ResponseModel):
    """A key point of a summary, with the location of its quote in the document.

    Offsets are in characters from the start of the document; lines and pages count from 1.
    """

    text: str
    quote: str = Field(
        description="The text searched for: the part in quotation marks, else the whole point, or what "
        "follows its label and a colon."
    )
    located: bool = Field(
        description="Whether the document contains it word for word, whatever white space is between."
    )
    match: Literal["exact", "near"] | None = Field(
        None,
        description="`exact` if located. `near`: the location is that of a similar passage. Null if there is "
        "none.",
    )
    similarity: float | None = Field(
        None,
        description="Of the quote to the passage: 1 for an exact match, 0.85 to 1 for a near one.",
        examples=[0.94],
    )
    start: int | None
    end: int | None
    line: int | None
    page: int | None = Field(description="Null if the document has no form feeds.")
    occurrences: int = Field(description="How often it occurs word for word; the location is the first one.")


class AnswerOut(ResponseModel):
    """The answer to one prompt."""

    prompt: str
    text: str
    tokens: int
    finish_reason: str | None = Field(
        description="`stop`: the model ended it. `length`: max_output_tokens were reached. `repetition`: it "
        "went into a loop, and the text ends with the first copy of what it repeated.",
        examples=["stop"],
    )
    points: list[PointOut] | None = Field(None, description="For the prompts of a summary only.")
    guided: bool = Field(False, description="Whether this prompt guided the reading.")
    evicted_attention: float | None = Field(
        None,
        description="Share of the prompt's attention, while the document was read, that fell on slots "
        "evicted since. Null if the reading was open or nothing was evicted.",
        examples=[0.07],
    )
    at_risk: bool = Field(
        False, description="Whether that share is so large that the answer may well be wrong."
    )


class WarningOut(ResponseModel):
    """Something about how a document was read that its reader should know."""

    code: str = Field(examples=["slots_piled_up"])
    message: str


class ResultOut(ResponseModel):
    """The answers of a job; `complete` is false while it runs, or if it ended early."""

    job_id: str
    state: State
    complete: bool
    answers: list[AnswerOut]
    policy: str = Field(examples=["namm-key"])
    policy_reason: str | None = Field(description="Why this policy.")
    reading: Reading | None = Field(description="How it was read; null until the job has ended.")
    rereads: int = Field(
        description="How often it was read again, with a larger cache, because of `on_risk`."
    )
    warnings: list[WarningOut] = Field(description="Empty until the job has ended.")
    usage: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
