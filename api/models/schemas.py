"""Models in answers."""

from datetime import datetime

from pydantic import Field

from api.schemas import Answered


class ScorerOut(Answered):
    """A scorer that comes with a model."""

    name: str
    version: str
    sha256: str


class ServingWorkerOut(Answered):
    """A live worker that serves a model."""

    id: str = Field(examples=["wrk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    revision: str | None = Field(description="Of the model it has loaded; jobs pin it.")
    loaded_at: datetime | None = Field(description="Null until it has loaded the model.")


class ModelOut(Answered):
    """A model that a worker has registered."""

    name: str = Field(examples=["bundled"])
    revision: str | None
    window: int | None = Field(description="Positions the model was trained on.", examples=[2048])
    vocab_size: int | None
    dense_bytes_per_token: int | None = Field(description="Of KV cache, if nothing were pruned.")
    tokenizer_sha256: str | None
    policies: list[str] | None = Field(description="Null until a worker has loaded the model.")
    scorers: list[ScorerOut] | None
    workers_live: int = Field(description="0 = a job for this model waits until a worker is back.")
    loaded: bool = Field(description="By at least one live worker.")
    errors: list[str] = Field(description="Why live workers could not load it.")
    workers: list[ServingWorkerOut] = Field(description="The live ones; revisions differ during a change.")


class ModelList(Answered):
    """All models, and the service's limits."""

    data: list[ModelOut]
    default_policy: str
    max_document_bytes: int
    max_output_tokens: int
