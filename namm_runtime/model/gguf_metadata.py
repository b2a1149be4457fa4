"""What a GGUF file says of itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.model.catalogue import KnownModel

MAGIC = b"GGUF"


@dataclass(frozen=True)
class GgufMetadata:
    """The fields that identify a model, as the file has them.

    Attributes:
        licence: lower-case SPDX identifier; None if the file does not say.
        window: number of positions the model was trained for.
        split: number of files that the model is divided into.
        rope_scaling: type of scaling of the rotary frequencies; None for the plain ones.
    """

    architecture: str
    title: str
    licence: str | None
    window: int
    split: int
    rope_scaling: str | None


def read(file: Path) -> GgufMetadata:
    """Read the metadata.

    Raises:
        Refusal: `model_not_found` if the file is not a whole GGUF file.
    """
    from gguf import GGUFReader

    try:
        with file.open("rb") as data:
            start = data.read(64)
        if not start.startswith(MAGIC):
            pointer = start.startswith(b"version https://git-lfs")
            kind = "a Git LFS pointer; run 'git lfs pull'" if pointer else "not a GGUF file"
            raise Refusal("model_not_found", f"{file} is {kind}")
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items() if _is_short(name)}
        last = reader.tensors[-1]
        if last.data_offset + last.n_bytes > file.stat().st_size:
            raise ValueError("its tensors end after the file does")
    except OSError as error:
        raise Refusal("model_not_found", f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise Refusal("model_not_found", f"{file} is an incomplete or damaged GGUF file: {error}") from None
    architecture = str(fields.get("general.architecture", ""))
    scaling = fields.get(f"{architecture}.rope.scaling.type")
    frequencies = any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors)
    return GgufMetadata(
        architecture=architecture,
        title=str(fields.get("general.name", "")),
        licence=str(fields["general.license"]).lower() if "general.license" in fields else None,
        window=_number(fields.get(f"{architecture}.context_length")),
        split=_number(fields.get("split.count")),
        rope_scaling="llama3" if frequencies else (None if scaling in (None, "none") else str(scaling)),
    )


def check(metadata: GgufMetadata, model: KnownModel) -> None:
    """Compare with the catalogue.

    Raises:
        Refusal: `model_mismatch`.
    """
    expected: dict[str, tuple[Any, Any]] = {
        "name": (metadata.title, model.title),
        "architecture": (metadata.architecture, model.architecture),
        "window": (metadata.window, model.window),
        "licence": (metadata.licence or model.licence.lower(), model.licence.lower()),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise Refusal(
                "model_mismatch",
                f"the file of '{model.name}' gives its {what} as '{found}', expected '{wanted}'",
            )


def _is_short(name: str) -> bool:
    return not name.startswith("tokenizer.")


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
