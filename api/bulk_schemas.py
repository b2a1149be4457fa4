"""What requests and answers about bulk work look like: templates, collections, bulk jobs."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.answers import Answered, AnswerOut, ErrorOut, Number
from api.schemas import (
    TEMPLATE_NAME,
    Asked,
    Deadline,
    DocumentId,
    Metadata,
    Prompt,
    Text,
    Work,
)
from store.sources import globs
from store.sources.listing import MAX_PATH_BYTES

MAX_DOCUMENTS = 10_000  # that one request names one by one

Strategy = Literal["whole", "map_reduce"]
BulkState = Literal[
    "listing", "running", "digesting", "bundling", "cancelling", "succeeded", "failed", "cancelled"
]


def _indexed(text: str) -> str:
    if len(text.encode()) > MAX_PATH_BYTES:
        raise PydanticCustomError("too_many_bytes", "At most {most} bytes of UTF-8", {"most": MAX_PATH_BYTES})
    return text


def _glob(text: str) -> str:
    try:
        globs.matching(text)
    except globs.GlobInvalid as invalid:
        raise PydanticCustomError("glob_invalid", "{why}", {"why": str(invalid).rstrip(".")}) from None
    return text


Url = Annotated[Text, StringConstraints(min_length=1, max_length=1000), AfterValidator(_indexed)]
Glob = Annotated[Text, StringConstraints(min_length=1, max_length=300), AfterValidator(_glob)]
DocumentPath = Annotated[Text, StringConstraints(min_length=1, max_length=1000), AfterValidator(_indexed)]
CollectionName = Annotated[Text, StringConstraints(min_length=1, max_length=200, pattern=r"^[^/\s][^\n]*$")]
NewTemplateName = Annotated[str, StringConstraints(pattern=rf"^{TEMPLATE_NAME}$")]


class TemplateCreate(Asked):
    """The next version of a prompt for summaries."""

    prompt: Prompt = Field(
        description="May hold {points}, {words} and {number}; a brace that is meant is doubled.",
        examples=[
            "Summarize the contract in {points} points for a lawyer. Quote each clause in double quotes."
        ],
    )
    each_point: bool = Field(
        False, description="Ask it once for each point, with its {number}; for models that complete text."
    )


class TemplateOut(Answered):
    """A version of a prompt for summaries."""

    name: str = Field(examples=["summary"])
    version: int
    label: str = Field(examples=["summary@1"])
    prompt: str
    each_point: bool
    builtin: bool = Field(description="Comes with Palimpsest.")


class TemplateList(Answered):
    """Every version of every template, by name."""

    data: list[TemplateOut]


class CollectionCreate(Asked):
    """A named set of documents; with a source, whatever lies there."""

    name: CollectionName
    source: Url | None = Field(
        None,
        description="A folder that the service may read, as an fsspec URL without credentials.",
        examples=["s3://contracts/2027"],
    )
    glob: Glob | None = Field(None, description="Of paths below the source.", examples=["**/*.txt"])

    @model_validator(mode="after")
    def _glob_of_source(self) -> Self:
        if self.glob is not None and self.source is None:
            raise PydanticCustomError("glob_choice", "Only a collection with a source has a glob")
        return self


class CollectionOut(Answered):
    """A collection and how many documents it has."""

    id: str = Field(examples=["col_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    name: str
    source: str | None
    glob: str | None
    documents: int
    unreadable: int = Field(description="Files that are there but are no document, or could not be read.")
    deleted: int = Field(description="What was there and no longer is.")
    created_at: datetime
    refreshing: bool = Field(description="Somebody asked for the source to be looked at.")
    refreshed_at: datetime | None
    refresh_error: str | None


class CollectionPage(Answered):
    """A page of collections, by name."""

    data: list[CollectionOut]
    has_more: bool
    next_cursor: str | None


class Unreadable(Asked):
    """Why a file is no document."""

    code: Annotated[Text, StringConstraints(pattern=r"^[a-z0-9_]{1,60}$")]
    message: Annotated[Text, StringConstraints(min_length=1, max_length=500)]


class Member(Asked):
    """A document and the path it has in a collection, or a path under which none could be read."""

    document_id: DocumentId | None = None
    path: DocumentPath | None = Field(None, description="The document's id when left out.")
    error: Unreadable | None = Field(
        None,
        description="Instead of a document: why the file could not be read, for bundles to say.",
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.document_id is None) == (self.error is None):
            raise PydanticCustomError("member_choice", "Give either document_id or error")
        if self.error is not None and self.path is None:
            raise PydanticCustomError("member_choice", "An error has the path of its file")
        return self


class MembersAdd(Asked):
    """Documents to put into a collection."""

    documents: list[Member] = Field(min_length=1, max_length=1000)


class CollectionItemOut(Answered):
    """A document of a collection."""

    path: str
    document_id: str | None
    sha256: str | None
    error: ErrorOut | None = Field(description="Why the file is not a document.")
    added_at: datetime
    changed_at: datetime
    seen_at: datetime
    deleted_at: datetime | None


class CollectionItemPage(Answered):
    """A page of documents, by path."""

    data: list[CollectionItemOut]
    has_more: bool
    next_cursor: str | None


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


class BulkPage(Answered):
    """A page of bulk jobs, newest first."""

    data: list[BulkOut]
    has_more: bool
    next_cursor: str | None


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


class BulkItemPage(Answered):
    """A page of a bulk job's documents, in the order of their paths."""

    data: list[BulkItemOut]
    has_more: bool
    next_cursor: str | None
