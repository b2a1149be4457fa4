"""Time and memory that a document used, and what a full cache would have needed.

kept      bytes of K and V in the cache, pending tokens included, at the largest head of each layer
resident  bytes allocated for K, V, positions and the policy's state
peak      resident plus the largest temporaries of attention and scorer, from their shapes
dense     bytes of K and V that a full cache would hold for the tokens read so far

While nothing has been evicted, the cache holds what a full one would: nothing is saved, and `no_saving` says
so. Tokens of the chat template before the document count neither as kept nor as evicted: the share of all
tokens that is kept is taken for the document's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from namm_runtime.engine.memory import Memory

FITS = "No saving: the document fits in the cache."
NO_BUDGET = "No saving: the cache keeps the whole document."
PHASES = ("count", "read", "score", "answer", "snapshot")


@dataclass
class Usage:
    """Usage of one document so far, in bytes, tokens, seconds and byte-seconds."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    tokens_document: int = 0
    tokens_read: int = 0
    tokens_prompt: int = 0
    tokens_generated: int = 0
    tokens_kept: float = 0.0  # of the document, at the largest head of each layer, mean over layers
    tokens_evicted: float = 0.0
    kept_bytes: int = 0
    resident_bytes: int = 0
    peak_bytes: int = 0
    dense_bytes: int = 0
    kv_byte_seconds: float = 0.0
    dense_byte_seconds: float = 0.0
    snapshot_bytes: int = 0  # written by all snapshots together
    # The settings it ran with, known once the document is counted.
    policy: str | None = None
    mode: str | None = None  # budget | parity
    budget: int | None = None  # slots per head, None without a limit
    interval: int | None = None  # tokens between evictions, None without evictions
    positions: str | None = None  # absolute | cache-relative
    regime_matches: bool = True  # whether they are those the scorer was evolved in; True without a scorer
    regime: str | None = None  # if they are not, a sentence that says what differs
    reading: str = "open"  # open | guided
    rereads: int = 0
    warnings: list[dict[str, str]] = field(default_factory=list)  # code, message

    @property
    def kept_fraction(self) -> float:
        """Share of the document's tokens in the cache: largest head of each layer, mean over layers."""
        return self.tokens_kept / self.tokens_document if self.tokens_document else 0.0

    @property
    def no_saving(self) -> str | None:
        """Why nothing was saved, as long as nothing was evicted."""
        if self.tokens_evicted or not self.tokens_kept:
            return None
        return NO_BUDGET if self.budget is None else FITS

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall time of the block to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    def observe(self, memory: Memory, elapsed: float, beside: Memory | None = None) -> None:
        """Record the sizes after a step of `elapsed` seconds; `beside` is the memory it was forked from."""
        cache, dense = memory.cache, memory.clock * memory.model.dense_bytes_per_token
        resident = cache.resident_bytes()
        if beside is None:
            self._count_kept(memory)
            self.kept_bytes = sum(layer.bytes_per_slot * layer.used for layer in cache.layers)
            self.resident_bytes = resident
            self.dense_bytes = dense
        else:
            resident += beside.cache.resident_bytes()
        self.peak_bytes = max(self.peak_bytes, resident + memory.scratch_bytes)
        self.kv_byte_seconds += resident * elapsed
        self.dense_byte_seconds += dense * elapsed

    def _count_kept(self, memory: Memory) -> None:
        layers, clock = memory.cache.layers, memory.clock
        share = sum(layer.used for layer in layers) / len(layers) / clock
        read = max(0, clock - len(memory.model.frame.prefix))
        self.tokens_kept = share * read
        self.tokens_evicted = read - self.tokens_kept

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kept_fraction": self.kept_fraction, "no_saving": self.no_saving}
