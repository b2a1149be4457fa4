"""All settings of the service, read from the environment once.

Elsewhere only a few variables that are no settings of the service are read: the client's `PALIMPSEST_URL` and
`PALIMPSEST_API_KEY`, a worker's id, and what is passed on to child processes.
"""

from __future__ import annotations

import os
import secrets
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from store.errors import StoreError


class SettingMissing(StoreError):
    """A setting without a default is not set."""

    code = "setting_missing"


class Settings(BaseSettings):
    """Settings, each `PALIMPSEST_<NAME>` in the environment; the two URLs also under their plain names.

    Values that hold secrets are `SecretStr`, so that neither a log line nor a traceback prints them.
    """

    model_config = SettingsConfigDict(
        env_prefix="PALIMPSEST_", env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    # Locations -------------------------------------------------------------------------------
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "PALIMPSEST_DATABASE_URL"),
        description="PostgreSQL. `palimpsest up` starts its own where this is not set.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("REDIS_URL", "PALIMPSEST_REDIS_URL"),
        description="Redis, Celery's broker. `palimpsest up` starts its own where this is not set.",
    )
    data_dir: Path = Field(
        default=Path.home() / ".local" / "share" / "palimpsest",
        description="Data directory: logs, blobs, the embedded servers' files and the generated pepper.",
    )
    blob_url: str | None = Field(
        default=None,
        description="Blob store for documents, snapshots and bundles: any fsspec URL, such as "
        "`s3://bucket/prefix`. Unset: `blobs/` in the data directory.",
    )
    scratch_dir: Path | None = Field(
        default=None,
        description="Local directory for files on their way to or from a remote blob store. Unset: "
        "`scratch/` in the data directory.",
    )
    sources_file: Path | None = Field(
        default=None,
        description="TOML file that lists the external folders which may be read from and written to. "
        "Unset: none.",
    )
    max_source_files: PositiveInt = Field(
        default=100_000, description="A source with more matching files is refused."
    )
    database_pool_size: PositiveInt = Field(default=5, description="Database connections of one process.")

    # The API ----------------------------------------------------------------------------------------
    api_key_pepper: SecretStr | None = Field(
        default=None,
        description="Secret that API keys are hashed with and webhook secrets are derived from. Unset: "
        "generated once and kept in `api_key_pepper` in the data directory.",
    )
    max_upload_bytes: PositiveInt = Field(default=2 * 1024**3, description="Size limit of a document.")
    max_inline_bytes: PositiveInt = Field(
        default=4 * 1024**2, description="Size limit of a job's inline `text`."
    )
    max_prompts: PositiveInt = Field(default=64, description="Questions in one job.")
    max_output_tokens: PositiveInt = Field(
        default=4096, description="Upper limit of a job's `max_output_tokens`."
    )
    idempotency_hours: PositiveInt = Field(
        default=24, description="How long an `Idempotency-Key` is remembered."
    )
    worker_live_seconds: PositiveFloat = Field(
        default=60.0, description="A worker without a heartbeat for longer counts as gone."
    )

    # Webhooks ---------------------------------------------------------------------------------------
    webhook_allow_loopback: bool = Field(
        default=False,
        description="Allows webhooks on loopback addresses, without TLS too. For development only.",
    )
    notifier_seconds: PositiveFloat = Field(
        default=5.0, description="How often the notifier polls where no NOTIFY wakes it."
    )

    # The model this worker serves -------------------------------------------------------------------
    engine: str = Field(
        default="worker.engine:load", description="Import string of the function that loads the engine."
    )
    model: str = Field(
        default="bundled",
        description="Model that the worker serves: a name from `palimpsest model list`, a directory, a "
        "GGUF file, or a hub id. `bundled` is a small test fixture in the package.",
    )
    models_dir: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("NAMM_MODELS", "PALIMPSEST_MODELS_DIR"),
        description="Directory of the models that `palimpsest model add` fetches. Unset: `models/` in the "
        "data directory.",
    )
    model_name: str | None = Field(
        default=None,
        description="Name that jobs use for the model. Unset: the last part of the model's path.",
    )
    device: str = Field(
        default="cpu",
        description="`cpu`, `cuda`, `cuda:1`, or `auto` to spread the layers over all devices (needs "
        "accelerate).",
    )
    dtype: str = Field(
        default="auto",
        description="`float32`, `bfloat16`, `float16` or `auto`: on an accelerator the checkpoint's own; on "
        "a CPU bf16 where a short measurement finds it faster, but fp32 for checkpoints in fp32.",
    )
    slots: PositiveInt | None = Field(
        default=None,
        description="Documents in the engine at once. Unset: with a small model on a CPU one per core, "
        "otherwise one.",
    )
    max_document_tokens: PositiveInt = Field(
        default=8_000_000, description="A job whose document has more tokens fails before it is read."
    )
    default_policy: str | None = Field(
        default=None,
        description="Eviction policy of jobs that do not name one. Unset: the default of their model, which "
        "`GET /v1/models` shows with its reason.",
    )
    default_reading: Literal["guided", "open"] = Field(
        default="guided",
        description="How documents of jobs that do not say are read: `guided` by the prompts, or `open`, as "
        "if these were not known yet.",
    )
    default_cache_budget: PositiveInt | None = Field(
        default=None,
        validation_alias=AliasChoices("PALIMPSEST_DEFAULT_CACHE_BUDGET", "PALIMPSEST_DEFAULT_BUDGET"),
        description="Cache slots per KV head for jobs that do not say. Unset: what the scorer was validated "
        "with, otherwise 512.",
    )

    # Jobs, leases and loops -------------------------------------------------------------------------
    lease_seconds: PositiveFloat = Field(
        default=30.0, description="A worker's lease on a job; it expires unless it is renewed."
    )
    renew_seconds: PositiveFloat = Field(default=10.0, description="How often leases are renewed.")
    progress_seconds: PositiveFloat = Field(
        default=1.0, description="How often a running job reports its progress."
    )
    snapshot_chunks: PositiveInt = Field(
        default=128, description="Chunks that are read between two snapshots of a job."
    )
    chunk_tokens: PositiveInt = Field(
        default=512, description="Tokens that `PALIMPSEST_SNAPSHOT_CHUNKS` counts as one chunk."
    )
    max_attempts: PositiveInt = Field(
        default=3, description="Lost workers (or refusals in a row) after which a job fails."
    )
    reaper_seconds: PositiveFloat = Field(default=10.0, description="Pause between two sweeps of the reaper.")
    scheduler_seconds: PositiveFloat = Field(
        default=5.0, description="How often the scheduler looks for due schedules."
    )
    relay_seconds: PositiveFloat = Field(
        default=5.0, description="How often the relay polls where no NOTIFY wakes it."
    )
    hint_seconds: PositiveFloat = Field(
        default=60.0, description="A job still queued after this long wakes the workers again."
    )
    heartbeat_seconds: PositiveFloat = Field(default=10.0, description="How often a worker reports itself.")
    stall_loading_seconds: PositiveFloat = Field(
        default=900.0,
        description="Longest time without progress while a job loads its document; then its lease is no "
        "longer renewed.",
    )
    stall_counting_seconds: PositiveFloat = Field(
        default=300.0, description="Longest time without progress while a job's tokens are counted."
    )
    stall_reading_seconds: PositiveFloat = Field(
        default=300.0, description="Longest time without progress while a job reads its document."
    )
    stall_answering_seconds: PositiveFloat = Field(
        default=300.0, description="Longest time without progress while a job answers its prompts."
    )
    stall_finalizing_seconds: PositiveFloat = Field(
        default=120.0, description="Longest time without progress while a job writes its result."
    )

    # Bulk jobs --------------------------------------------------------------------------------------
    conductor_seconds: PositiveFloat = Field(
        default=1.0, description="How often the conductor looks at active bulk jobs."
    )
    bulk_window: PositiveInt = Field(
        default=200, description="Jobs of one bulk job that are queued or running at once."
    )
    bulk_part_characters: PositiveInt = Field(
        default=400_000, description="Length of a part under the strategy `map_reduce`."
    )

    # Money ------------------------------------------------------------------------------------------
    device_type: str = Field(
        default="cpu",
        description="The worker's device as the price book calls it; see `palimpsest price show`.",
    )
    device_memory_bytes: PositiveInt = Field(
        default=8 * 1024**3, description="Memory of the device, of which savings are expressed as a share."
    )

    # Logs -------------------------------------------------------------------------------------------
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto`: console on a terminal, otherwise JSON."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level that is logged."
    )

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of Postgres, with the psycopg 3 driver. Raises SettingMissing."""
        if self.database_url is None:
            raise SettingMissing(
                "DATABASE_URL is not set; `palimpsest up` sets it for the processes it starts."
            )
        scheme, rest = self.database_url.get_secret_value().split("://", 1)
        return (
            f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else f"{scheme}://{rest}"
        )

    @property
    def broker(self) -> str:
        """The URL of Redis in Celery's form; a Unix socket is `redis+socket://`. Raises SettingMissing."""
        if self.redis_url is None:
            raise SettingMissing("REDIS_URL is not set; `palimpsest up` sets it for the processes it starts.")
        url = self.redis_url.get_secret_value()
        if not url.startswith("unix://"):
            return url
        return "redis+socket://" + url.removeprefix("unix://").replace("?db=", "?virtual_host=")

    @property
    def redis(self) -> str:
        """The URL of Redis in redis-py's form: `unix://` for a Unix socket. Raises SettingMissing."""
        return self.broker.replace("redis+socket://", "unix://").replace("?virtual_host=", "?db=")

    @property
    def served_model(self) -> str:
        """The name under which this worker registers its model and claims jobs."""
        return self.model_name or self.model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")

    @property
    def models(self) -> Path:
        """The directory of fetched models."""
        return (self.models_dir or self.data_dir / "models").expanduser().absolute()

    @property
    def scratch(self) -> Path:
        """The local directory for temporary files of a remote blob store."""
        return self.scratch_dir or self.data_dir / "scratch"

    @property
    def blobs(self) -> str:
        """The URL or directory of the blob store."""
        return self.blob_url or str(self.data_dir / "blobs")

    @cached_property
    def pepper(self) -> bytes:
        """The secret that API keys are hashed with; generated on first use unless it is set."""
        if self.api_key_pepper is not None:
            return self.api_key_pepper.get_secret_value().encode()
        return _kept_secret(self.data_dir / "api_key_pepper")

    def stall_seconds(self, phase: str) -> float:
        """Seconds without progress allowed in a phase. An unknown phase gets the limit of reading."""
        return float(getattr(self, f"stall_{phase}_seconds", self.stall_reading_seconds))


def _kept_secret(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # O_EXCL: of two processes that start together, one generates the secret and the other reads it.
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        secret = path.read_bytes()
    else:
        secret = secrets.token_hex(32).encode()
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
    if len(secret) < 32:
        raise StoreError(
            f"{path} holds no usable secret. Delete it to generate a new one, which invalidates all API keys."
        )
    return secret


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
