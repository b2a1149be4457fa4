"""Models in responses."""

from datetime import datetime

from pydantic import Field

from api.schemas import ResponseModel


class ScorerOut(ResponseModel):
    """A scorer bundled with a model."""

    name: str
    version: str
    sha256: str


class ServingWorkerOut(ResponseModel):
    """A live worker that serves a model."""

    id: str = Field(examples=["wrk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    revision: str | None = Field(description="Of the model it has loaded; a job pins it.")
    loaded_at: datetime | None = Field(description="Null until it has loaded the model.")


class ModelOut(ResponseModel):
    """A model that a worker has registered."""

    name: str = Field(examples=["bundled"])
    revision: str | None
    window: int | None = Field(description="Positions the model was trained on.", examples=[2048])
    vocab_size: int | None
    dense_bytes_per_token: int | None = Field(description="Of a full KV cache.")
    tokenizer_sha256: str | None
    policies: list[str] | None = Field(description="Null until a worker has loaded the model.")
    scorers: list[ScorerOut] | None
    default_policy: str = Field(description="Of jobs for this model that name none.", examples=["namm-key"])
    default_policy_reason: str = Field(
        description="Why. Until a worker has loaded the model, a worker may still choose another one."
    )
    workers_live: int = Field(description="With 0, jobs for this model wait for a worker.")
    loaded: bool = Field(description="Whether at least one live worker has loaded it.")
    errors: list[str] = Field(description="Errors of live workers that could not load it.")
    workers: list[ServingWorkerOut] = Field(
        description="The live ones. Revisions may differ while a model is being replaced."
    )


class ModelList(ResponseModel):
    """All models, and the service's limits."""

    data: list[ModelOut]
    default_policy: str = Field(description="For models that no worker has loaded yet.")
    max_document_bytes: int
    max_output_tokens: int
