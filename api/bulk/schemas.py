"""Bulk jobs in requests and responses."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from api.collections.schemas import Glob, Url
from api.jobs.result_schemas import AnswerOut, WarningOut
from api.jobs.schemas import Reading, Work
from api.schemas import (
    Deadline,
    DocumentId,
    ErrorOut,
    Metadata,
    Number,
    Page,
    RequestModel,
    ResponseModel,
)
from store.bulk import BulkState

MAX_DOCUMENTS = 10_000  # named one by one in a request

Strategy = Literal["whole", "map_reduce"]


class BulkWork(RequestModel):
    """A task for every document of a set."""

    collection: Url | None = Field(
        None, description="The id or name of a collection.", examples=["contracts"]
    )
    source: Url | None = Field(
        None, description="A folder, instead of a collection; a collection is created for it."
    )
    glob: Glob | None = Field(
        None, description="Which paths below the source to include.", examples=["**/*.txt"]
    )
    job: Work = Field(
        description="What to do with each document.", examples=[{"task": "summarize", "points": 5}]
    )
    strategy: Strategy = Field(
        "whole",
        description="`whole` reads each document as a whole, whatever its length; `map_reduce` reads long "
        "ones in parts and then combines the answers, which the result shows.",
    )
    only_changed: bool = Field(
        False,
        description="Skip documents for which the same task has succeeded and which have not changed since.",
    )
    digest: bool = Field(True, description="For summaries: also let the model summarize all of them.")
    to: Url | None = Field(
        None, description="A folder to deliver the bundle to, which the service must be allowed to write to."
    )

    @model_validator(mode="after")
    def _one_set(self) -> Self:
        names = [name for name in ("collection", "source", "document_ids") if name in type(self).model_fields]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise PydanticCustomError(
                "documents_choice", "Give exactly one of {names}", {"names": ", ".join(names)}
            )
        return self

    @model_validator(mode="after")
    def _glob_of_source(self) -> Self:
        if self.glob is not None and self.source is None:
            raise PydanticCustomError("glob_choice", "Only a source takes a glob")
        return self


class BulkCreate(BulkWork):
    """A task for every document of a collection, a source, or a list of documents."""

    document_ids: list[DocumentId] | None = Field(
        None,
        min_length=1,
        max_length=MAX_DOCUMENTS,
        description="A list of documents, instead of a collection or a source.",
    )
    deadline: Deadline | None = Field(
        None, description="For every job: an RFC 3339 time, or seconds from now; at most 30 days ahead."
    )
    metadata: Metadata = Field(
        default_factory=dict,
        max_length=10,
        description="Set on the bulk job and, in addition to the job's own, on every job.",
    )


class BulkProgress(ResponseModel):
    """Progress of a bulk job."""

    documents: int
    states: dict[str, int] = Field(
        description="Documents by state: `pending` without a job, `mapped` while in parts, else the job's.",
        examples=[{"pending": 120, "queued": 60, "running": 1, "succeeded": 18, "failed": 1}],
    )
    done: int = Field(description="Documents that have ended, successfully or not.")


class SpentOut(ResponseModel):
    """Totals of jobs in one currency; null if no bill has the figure."""

    currency: str
    cost: Number | None
    saving_allocated: Number | None
    saving_realised: Number | None
    device_seconds: Number
    tokens_document: Number
    tokens_generated: Number
    peak_bytes_max: int | None
    dense_bytes_max: int | None


class BulkOut(ResponseModel):
    """A bulk job and its state."""

    id: str = Field(examples=["bulk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    state: BulkState
    collection_id: str | None
    collection: str | None
    job: dict[str, Any] = Field(description="What is done with each document.")
    strategy: Strategy
    only_changed: bool
    digest: bool
    to: str | None
    metadata: dict[str, str]
    round: int = Field(description="Starts at 1 and increases with each retry.")
    progress: BulkProgress
    spent: list[SpentOut] = Field(
        description="So far, over all its jobs. Cost is derived, savings are estimated."
    )
    digest_job_id: str | None
    bundle: list[str] | None = Field(
        description="Files to download below /bundle; null until they are ready."
    )
    delivered_at: datetime | None
    delivery_error: str | None
    error: ErrorOut | None = Field(description="While it runs: why it is waiting.")
    created_at: datetime
    listed_at: datetime | None
    ended_at: datetime | None


class BulkPage(Page):
    """A page of bulk jobs, newest first."""

    data: list[BulkOut]


class BulkItemOut(ResponseModel):
    """A document of a bulk job."""

    seq: int
    path: str
    document_id: str | None
    sha256: str | None
    state: str
    job_id: str | None
    parts: int | None = Field(description="Number of parts, if the document is read in parts.")
    policy: str | None = Field(description="Null without a job.")
    policy_reason: str | None
    scorer: str | None
    reading: Reading | None = Field(description="How it was read; null until its job has ended.")
    answers: list[AnswerOut]
    warnings: list[WarningOut]
    spent: list[SpentOut]
    error: ErrorOut | None


class BulkItemPage(Page):
    """A page of a bulk job's documents, by path."""

    data: list[BulkItemOut]
