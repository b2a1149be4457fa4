"""Which tokens of a document are still in the cache after reading it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from namm_runtime.engine import Engine, Request, Run
from namm_runtime.engine.usage import Usage
from namm_runtime.evaluate.unit import PolicySpec
from namm_runtime.model.loading import LoadedModel
from namm_runtime.model.token_stream import TokenStream


@dataclass(frozen=True)
class TokenisedDocument:
    """A document's text with the offset of every token.

    Attributes:
        starts: [T + 1] character offsets, ascending; the last one is the text's length. Tokens that share a
            character start at the same offset.
    """

    text: str
    starts: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def read(cls, path: Path, tokenizer: Any) -> "TokenisedDocument":
        """Read and tokenise a UTF-8 file.

        Raises:
            Refusal: `document_not_text`, `tokenizer_unsupported`.
        """
        data = path.read_bytes()
        starts: list[int] = []
        byte = character = 0
        for piece in TokenStream(path, tokenizer):
            character += len(data[byte : piece.byte].decode())
            byte = piece.byte
            starts += [character + start for start in piece.starts]
        text = data.decode()
        return cls(text, np.array([*starts, len(text)], dtype=np.int64))


@dataclass(frozen=True)
class Retention:
    """The tokens that one policy kept.

    Attributes:
        counts: [T] number of heads, over all layers, that still hold each token.
        kept: [layers, heads] number of the document's tokens that each head holds.
        waiting: tokens after the last eviction, which every head holds.
    """

    spec: PolicySpec
    slots: int | None
    counts: NDArray[np.int64]
    kept: NDArray[np.int64]
    waiting: int
    usage: Usage

    @property
    def heads(self) -> int:
        """Total number of KV heads in all layers."""
        return int(self.kept.size)


def measure_retention(
    model: LoadedModel,
    file: Path,
    spec: PolicySpec,
    slots: int | None,
    interval: int,
    positions: str | None,
    watch: Callable[[Run], None] = lambda run: None,
) -> Retention:
    """Read `file` under a policy and count which tokens are left.

    Args:
        watch: called with the run after every step.

    Raises:
        Refusal: as `Engine.complete`.
    """
    request = Request(file, (), spec.policy, slots, spec.scorer, interval, positions=positions)
    engine = Engine(model)
    run = engine.admit(request)
    while run.phase != "done":
        engine.step()
        watch(run)
    if run.error:
        raise run.error
    if run.memory is None:
        raise RuntimeError("a finished run has no memory")
    before = len(model.frame.prefix)
    layers = run.memory.cache.layers
    heads = layers[0].positions.shape[1]
    counts = np.zeros(run.tokens_total, dtype=np.int64)
    kept = np.zeros((len(layers), heads), dtype=np.int64)
    for number, layer in enumerate(layers):
        held = layer.positions[0, :, : layer.used].cpu().numpy() - before
        there = ~layer.unused()[0].cpu().numpy() & (held >= 0)
        kept[number] = there.sum(1)
        counts += np.bincount(held[there], minlength=run.tokens_total)
    waiting = min(layers[0].pending, run.tokens_total) if spec.policy != "full" else 0
    return Retention(spec, slots, counts, kept, waiting, run.usage)
