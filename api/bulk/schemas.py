"""Bulk jobs in requests and answers."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from api.collections.schemas import Glob, Url
from api.jobs.schemas import AnswerOut, Work
from api.schemas import (
    Answered,
    Asked,
    Deadline,
    DocumentId,
    ErrorOut,
    Metadata,
    Number,
    Page,
)
from store.bulk import BulkState

MAX_DOCUMENTS = 10_000  # that one request names one by one

Strategy = Literal["whole", "map_reduce"]


class BulkWork(Asked):
    """What is to be done with every document of a set."""

    collection: Url | None = Field(None, description="Id or name.", examples=["contracts"])
    source: Url | None = Field(
        None, description="Instead of a collection: a folder; a collection of it is made under its name."
    )
    glob: Glob | None = Field(None, description="Of paths below the source.", examples=["**/*.txt"])
    job: Work = Field(
        description="The same for every document.", examples=[{"task": "summarize", "points": 5}]
    )
    strategy: Strategy = Field(
        "whole",
        description="`whole` reads each document at once, whatever its length; `map_reduce` reads long "
        "ones in parts and then what came of the parts, and says so in the result.",
    )
    only_changed: bool = Field(
        False, description="Leave out what a bulk job that asked the same has done as it is now."
    )
    digest: bool = Field(True, description="Of summaries: a summary of all of them, made by the model.")
    to: Url | None = Field(None, description="A folder that the service may write the bundle to.")

    @model_validator(mode="after")
    def _one_set(self) -> Self:
        names = [name for name in ("collection", "source", "document_ids") if name in type(self).model_fields]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise PydanticCustomError("documents_choice", "Give one of {names}", {"names": ", ".join(names)})
        return self

    @model_validator(mode="after")
    def _glob_of_source(self) -> Self:
        if self.glob is not None and self.source is None:
            raise PydanticCustomError("glob_choice", "Only a source has a glob")
        return self


class BulkCreate(BulkWork):
    """One piece of work for every document of a collection, a source, or a list of documents."""

    document_ids: list[DocumentId] | None = Field(
        None, min_length=1, max_length=MAX_DOCUMENTS, description="Instead of a collection or a source."
    )
    deadline: Deadline | None = Field(
        None, description="For every job: RFC 3339, or seconds from now; at most 30 days away."
    )
    metadata: Metadata = Field(
        default_factory=dict,
        max_length=10,
        description="Of the bulk job and, with the job's own, of every job.",
    )


class BulkProgress(Answered):
    """How far a bulk job is."""

    documents: int
    states: dict[str, int] = Field(
        description="Documents by state: `pending` has no job yet, `mapped` is in parts, else its job's.",
        examples=[{"pending": 120, "queued": 60, "running": 1, "succeeded": 18, "failed": 1}],
    )
    done: int = Field(description="Documents that have ended, well or not.")


class SpentOut(Answered):
    """What jobs came to in one currency. Null: no bill says."""

    currency: str
    cost: Number | None
    saving_allocated: Number | None
    saving_realised: Number | None
    device_seconds: Number
    tokens_document: Number
    tokens_generated: Number
    peak_bytes_max: int | None
    dense_bytes_max: int | None


class BulkOut(Answered):
    """A bulk job and where it stands."""

    id: str = Field(examples=["bulk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    state: BulkState
    collection_id: str | None
    collection: str | None
    job: dict[str, Any] = Field(description="What is asked of every document.")
    strategy: Strategy
    only_changed: bool
    digest: bool
    to: str | None
    metadata: dict[str, str]
    round: int = Field(description="1, and one more for each retry.")
    progress: BulkProgress
    spent: list[SpentOut] = Field(description="So far, by all its jobs: cost derived, savings estimated.")
    digest_job_id: str | None
    bundle: list[str] | None = Field(description="Files to fetch below /bundle; null until it is made.")
    delivered_at: datetime | None
    delivery_error: str | None
    error: ErrorOut | None = Field(description="While it runs: why it waits.")
    created_at: datetime
    listed_at: datetime | None
    ended_at: datetime | None


class BulkPage(Page):
    """A page of bulk jobs, newest first."""

    data: list[BulkOut]


class BulkItemOut(Answered):
    """A document of a bulk job."""

    seq: int
    path: str
    document_id: str | None
    sha256: str | None
    state: str
    job_id: str | None
    parts: int | None = Field(description="Of a document that is read in parts.")
    scorer: str | None
    answers: list[AnswerOut]
    spent: list[SpentOut]
    error: ErrorOut | None


class BulkItemPage(Page):
    """A page of a bulk job's documents, in the order of their paths."""

    data: list[BulkItemOut]
