"""What a document cost in time and memory, and what a full cache would have taken.

kept      bytes of K and V after the last eviction, tail included, at the largest head of each layer
resident  bytes allocated for K, V, positions and the policy's state
peak      resident plus the largest scratch of attention and scorer, from the shapes of its tensors
dense     bytes of K and V that a full cache would hold for the tokens read so far
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from namm_runtime.engine.memory import Memory

PHASES = ("count", "read", "score", "answer", "snapshot")


@dataclass
class Usage:
    """Running account of one document. Bytes, tokens, seconds and byte-seconds."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    tokens_document: int = 0
    tokens_read: int = 0
    tokens_prompt: int = 0
    tokens_generated: int = 0
    tokens_kept: float = 0.0
    kept_bytes: int = 0
    resident_bytes: int = 0
    peak_bytes: int = 0
    dense_bytes: int = 0
    kv_byte_seconds: float = 0.0
    dense_byte_seconds: float = 0.0
    snapshot_bytes: int = 0  # written, all snapshots together
    # What it ran with, known once the document is counted.
    mode: str | None = None  # budget | parity
    budget: int | None = None  # slots a head, None without a limit
    interval: int | None = None  # tokens between evictions, None without any
    positions: str | None = None  # absolute | cache-relative
    regime_matches: bool = True  # all of it is what the scorer was evolved in, or there is no scorer
    regime: str | None = None  # where it is not: what differs, in words

    @property
    def kept_fraction(self) -> float:
        """Share of the document's tokens still in the cache: largest head of each layer, mean over layers."""
        return self.tokens_kept / self.tokens_document if self.tokens_document else 0.0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    def observe(self, memory: Memory, elapsed: float, beside: Memory | None = None) -> None:
        """Take the sizes after a step of `elapsed` seconds; `beside` is what `memory` was forked from."""
        cache, dense = memory.cache, memory.clock * memory.model.dense_bytes_per_token
        resident = cache.resident_bytes()
        if beside is None:
            self.tokens_kept = sum(layer.used for layer in cache.layers) / len(cache.layers)
            self.kept_bytes = sum(layer.bytes_per_slot * layer.used for layer in cache.layers)
            self.resident_bytes = resident
            self.dense_bytes = dense
        else:
            resident += beside.cache.resident_bytes()
        self.peak_bytes = max(self.peak_bytes, resident + memory.scratch_bytes)
        self.kv_byte_seconds += resident * elapsed
        self.dense_byte_seconds += dense * elapsed

    def to_dict(self) -> dict[str, Any]:
        evicted = max(0.0, self.tokens_read - self.tokens_kept)
        return asdict(self) | {"kept_fraction": self.kept_fraction, "tokens_evicted": evicted}
