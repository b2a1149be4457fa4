"""Collections in requests and responses."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.schemas import (
    DocumentId,
    ErrorOut,
    Page,
    RequestModel,
    ResponseModel,
    Text,
)
from store.sources import globs
from store.sources.listing import MAX_PATH_BYTES


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


class CollectionCreate(RequestModel):
    """A named set of documents; with a source, the files found there."""

    name: CollectionName
    source: Url | None = Field(
        None,
        description="A folder that the service is allowed to read, as an fsspec URL without credentials.",
        examples=["s3://contracts/2027"],
    )
    glob: Glob | None = Field(
        None, description="Which paths below the source to include.", examples=["**/*.txt"]
    )

    @model_validator(mode="after")
    def _glob_of_source(self) -> Self:
        if self.glob is not None and self.source is None:
            raise PydanticCustomError("glob_choice", "Only a collection with a source takes a glob")
        return self


class CollectionOut(ResponseModel):
    """A collection and the number of its documents."""

    id: str = Field(examples=["col_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    name: str
    source: str | None
    glob: str | None
    documents: int
    unreadable: int = Field(description="Files that are not documents or could not be read.")
    deleted: int = Field(description="Documents that have been removed.")
    created_at: datetime
    refreshing: bool = Field(description="Whether a refresh is pending.")
    refreshed_at: datetime | None
    refresh_error: str | None


class CollectionPage(Page):
    """A page of collections, by name."""

    data: list[CollectionOut]


class Unreadable(RequestModel):
    """Why a file is not a document."""

    code: Annotated[Text, StringConstraints(pattern=r"^[a-z0-9_]{1,60}$")]
    message: Annotated[Text, StringConstraints(min_length=1, max_length=500)]


class Member(RequestModel):
    """A document and its path in a collection, or the path of a file that could not be read."""

    document_id: DocumentId | None = None
    path: DocumentPath | None = Field(None, description="Default: the document's id.")
    error: Unreadable | None = Field(
        None,
        description="Instead of a document: why the file could not be read, which bundles then show.",
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.document_id is None) == (self.error is None):
            raise PydanticCustomError("member_choice", "Give exactly one of document_id and error")
        if self.error is not None and self.path is None:
            raise PydanticCustomError("member_choice", "An error requires the path of its file")
        return self


class MembersAdd(RequestModel):
    """Documents to add to a collection."""

    documents: list[Member] = Field(min_length=1, max_length=1000)


class CollectionItemOut(ResponseModel):
    """A document of a collection."""

    path: str
    document_id: str | None
    sha256: str | None
    error: ErrorOut | None = Field(description="Why the file is not a document.")
    added_at: datetime
    changed_at: datetime
    seen_at: datetime
    deleted_at: datetime | None


class CollectionItemPage(Page):
    """A page of documents, by path."""

    data: list[CollectionItemOut]
