"""Documents in responses."""

from datetime import datetime

from pydantic import Field

from api.schemas import ResponseModel


class DocumentOut(ResponseModel):
    """An uploaded document."""

    id: str = Field(examples=["doc_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    sha256: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    bytes: int = Field(examples=[5_242_880])
    media_type: str = Field(examples=["text/plain"])
    name: str | None = Field(examples=["contract.txt"])
    created_at: datetime
