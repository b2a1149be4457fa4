"""All settings of the service, read from the environment once. Nothing else reads the environment."""

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

    model_config = SettingsConfigDict(env_prefix="PALIMPSEST_", env_ignore_empty=True, extra="ignore")

    # Locations -------------------------------------------------------------------------------
    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "PALIMPSEST_DATABASE_URL")
    )
    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("REDIS_URL", "PALIMPSEST_REDIS_URL")
    )
    data_dir: Path = Path.home() / ".local" / "share" / "palimpsest"
    blob_url: str | None = None  # any fsspec URL (s3://bucket/prefix); None = <data_dir>/blobs
    scratch_dir: Path | None = None  # temporary files for a remote blob store; None = <data_dir>/scratch
    sources_file: Path | None = (
        None  # which external folders may be read and written; see `store.sources.folders`
    )
    max_source_files: PositiveInt = 100_000  # larger sources are refused, as all files are listed at once
    database_pool_size: PositiveInt = 5

    # The API ----------------------------------------------------------------------------------------
    api_key_pepper: SecretStr | None = None  # None = generated once and kept in <data_dir>/api_key_pepper
    max_upload_bytes: PositiveInt = 2 * 1024**3
    max_inline_bytes: PositiveInt = 4 * 1024**2
    max_prompts: PositiveInt = 64
    max_output_tokens: PositiveInt = 4096
    idempotency_hours: PositiveInt = 24
    worker_live_seconds: PositiveFloat = 60.0  # without a heartbeat for longer, a worker counts as gone

    # Webhooks ---------------------------------------------------------------------------------------
    webhook_allow_loopback: bool = (
        False  # for development: allows receivers on this machine, also over plain http
    )
    notifier_seconds: PositiveFloat = 5.0  # polling interval of the notifier, for when no NOTIFY wakes it

    # The model this worker serves -------------------------------------------------------------------
    engine: str = "worker.engine:load"  # import string of the function that loads the engine
    model: str = "bundled"  # a directory, a hub id, or `bundled` for the small model in the package
    model_name: str | None = None  # the model name in jobs; None = the last part of `model`
    device: str = "cpu"  # one device (cuda, cuda:1), or `auto`: spread over all (needs accelerate)
    dtype: str = "auto"
    # Documents in the engine at once. None = one per core for a small model on a CPU, else one.
    slots: PositiveInt | None = None
    max_document_tokens: PositiveInt = 8_000_000  # jobs with longer documents fail before reading
    default_policy: str = "namm-key"
    # Slots per KV head for jobs that set none; None = what the scorer was validated with, else 512.
    default_budget: PositiveInt | None = None

    # Jobs, leases and loops -------------------------------------------------------------------------
    lease_seconds: PositiveFloat = 30.0
    renew_seconds: PositiveFloat = 10.0
    progress_seconds: PositiveFloat = 1.0
    snapshot_chunks: PositiveInt = 128  # chunks of `chunk_tokens` between snapshots
    chunk_tokens: PositiveInt = 512
    max_attempts: PositiveInt = 3  # lost workers after which a job fails
    reaper_seconds: PositiveFloat = 10.0
    scheduler_seconds: PositiveFloat = 5.0  # interval of the scheduler: how late a schedule may fire
    relay_seconds: PositiveFloat = 5.0  # polling interval of the relay, for when no NOTIFY wakes it
    hint_seconds: PositiveFloat = 60.0  # a job queued this long since its last hint gets another
    heartbeat_seconds: PositiveFloat = 10.0
    # Seconds without progress in a phase after which the worker lets the job's lease expire.
    stall_loading_seconds: PositiveFloat = 900.0
    stall_counting_seconds: PositiveFloat = 300.0
    stall_reading_seconds: PositiveFloat = 300.0
    stall_answering_seconds: PositiveFloat = 300.0
    stall_finalizing_seconds: PositiveFloat = 120.0

    # Bulk jobs --------------------------------------------------------------------------------------
    conductor_seconds: PositiveFloat = 1.0  # interval between steps of active bulk jobs
    bulk_window: PositiveInt = 200  # jobs of one bulk job that are queued or running at once
    bulk_part_characters: PositiveInt = 400_000  # characters per part of a document read in parts

    # Money ------------------------------------------------------------------------------------------
    device_type: str = "cpu"  # as in the price book, see `palimpsest prices show`
    device_memory_bytes: PositiveInt = 8 * 1024**3  # the device's memory, for billing a share of it

    # Logs -------------------------------------------------------------------------------------------
    log_format: Literal["auto", "json", "console"] = "auto"  # auto = console on a terminal, else JSON
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

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
        return self.model_name or self.model.rstrip("/").rsplit("/", 1)[-1]

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
