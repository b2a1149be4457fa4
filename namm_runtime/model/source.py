"""What the name of a model stands for: a known model, a directory, a GGUF file or a hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from namm_runtime.bundled import MODELS
from namm_runtime.errors import Refusal
from namm_runtime.model.catalogue import KNOWN, directory_of, is_fetched

GGUF = ".gguf"


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from.

    Attributes:
        asked: what was asked for, for messages.
        name: what the model is called.
        place: directory or hub id.
        gguf: the GGUF file in that directory, if it is one.
    """

    asked: str
    name: str
    place: str
    gguf: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for tokenizer and configuration."""
        return {"gguf_file": self.gguf.name} if self.gguf else {}

    @property
    def is_bundled(self) -> bool:
        return self.asked in MODELS

    def weights(self) -> list[Path]:
        """The files with the weights, if they are on this machine's disk."""
        return [self.gguf] if self.gguf else sorted(Path(self.place).glob("*.safetensors"))


def locate(path_or_id: str | Path) -> ModelSource:
    """Find out what is meant. A known name goes before a directory of that name.

    Raises:
        Refusal: `model_not_found` for a known model that has not been fetched, and for a path that does not
            exist.
    """
    asked = str(path_or_id)
    if asked in KNOWN:
        if not is_fetched(asked):
            raise Refusal(
                "model_not_found", f"'{asked}' has not been fetched yet; run: namm model add {asked}"
            )
        return ModelSource(asked, asked, str(directory_of(asked)))
    path = Path(path_or_id)
    if asked.endswith(GGUF) and not path.is_dir():
        if not path.is_file():
            raise Refusal("model_not_found", f"there is no file {asked}")
        return ModelSource(asked, name_of(asked), str(path.absolute().parent), path.absolute())
    if not path.exists() and (asked.startswith((".", "/", "~")) or asked.count("/") > 1):
        raise Refusal("model_not_found", f"there is no directory {asked}")
    if path.is_file():
        raise Refusal("model_not_found", f"{asked} is a file, but neither a directory nor a GGUF file")
    return ModelSource(asked, name_of(asked), asked)


def name_of(asked: str) -> str:
    """The last part of a path or hub id, without `.gguf`."""
    return asked.rstrip("/").rsplit("/", 1)[-1].removesuffix(GGUF)
