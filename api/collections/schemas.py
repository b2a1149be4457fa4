"""Collections in requests and answers."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.schemas import (
    Answered,
    Asked,
    DocumentId,
    ErrorOut,
    Page,
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


class CollectionPage(Page):
    """A page of collections, by name."""

    data: list[CollectionOut]


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


class CollectionItemPage(Page):
    """A page of documents, by path."""

    data: list[CollectionItemOut]
