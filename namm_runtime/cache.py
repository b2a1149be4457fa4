"""A KV cache layer of fixed capacity in which every head has its own length.

Slots of one head, in text order:

    0 ........ lengths[b, h] ........ start ............ start + pending ........ capacity
    |    kept tokens    |   unused    |  tokens since the last eviction  |

The pending tokens start at the same slot in every head, so appending and the causal mask are uniform; only
the used part of [0, start) is ragged. After an eviction `start` is the largest length.

With a budget the capacity is allocated once. Without one (the full cache, and parity mode if the scorer has
no cap) it grows with the document.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from namm_runtime.probe import Probe

GROWTH = 64  # without a budget, slots are added in multiples of this


class Placement(NamedTuple):
    """The layer's index and the number of layers, and the shard of its heads under tensor parallelism."""

    layer: int = 0
    layers: int = 1
    shard: int = 0
    shards: int = 1


class BoundedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys, values and the policy's state of one decoder layer.

    Args:
        budget: slots each head keeps at an eviction; None sets no limit, and the capacity grows.
        interval: tokens between evictions; the capacity is budget + interval, allocated once.
        state: name → floats per slot that the policy stores with a token.
        placement: where the layer is in the model.

    Attributes:
        keys, values: [B, Hkv, C, D], keys not rotated.
        positions: [B, Hkv, C] int64, position of each token in the text.
        state: name → [B, Hkv, C, floats] fp32.
        queries: [B, Hq, <16, D] rotated queries that the policy has not observed yet.
        guest_tokens: how many of the next pass's newest tokens are prompts of a guided reading, which are
            not stored.
        guests: their keys and values [B, Hkv, guest_tokens, D], not rotated.
        probe: what those prompts have seen; None before the first such pass.
    """

    def __init__(
        self, budget: int | None, interval: int, state: Mapping[str, int], placement: Placement | None = None
    ) -> None:
        super().__init__()
        self.placement = placement or Placement()
        self.budget, self.interval, self.state_floats = budget, interval, dict(state)
        self.start = self.pending = self.clock = 0
        self._ragged: bool | None = None
        self.state: dict[str, Tensor] = {}
        self.queries: Tensor | None = None
        self.guest_tokens = 0
        self.guests: tuple[Tensor, Tensor]
        self.probe: Probe | None = None

    # -- what transformers calls ---------------------------------------------------------------------------

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the shapes [B, Hkv, T, D] of the first tokens."""
        batch, heads, tokens, _ = key_states.shape
        capacity = self.budget + self.interval if self.budget is not None else _rounded(tokens)
        self.keys = key_states.new_zeros(batch, heads, capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(batch, heads, capacity, value_states.shape[-1])
        self.positions = torch.zeros(batch, heads, capacity, dtype=torch.int64, device=key_states.device)
        self.lengths = torch.zeros(batch, heads, dtype=torch.int64, device=key_states.device)
        self.state = {
            name: torch.zeros(batch, heads, capacity, floats, device=key_states.device)
            for name, floats in self.state_floats.items()
        }
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [B, Hkv, T, D] in place, but no guests. Returns views of all slots in use."""
        if self.guest_tokens:
            stored = key_states.shape[2] - self.guest_tokens
            self.guests = key_states[:, :, stored:], value_states[:, :, stored:]
            key_states, value_states = key_states[:, :, :stored], value_states[:, :, :stored]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        tokens = key_states.shape[-2]
        begin, end = self.used, self.used + tokens
        if end > self.capacity:
            if self.budget is not None:
                raise RuntimeError(f"{tokens} tokens do not fit: {self.pending} pending of {self.interval}")
            self._grow(end)
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        self.positions[:, :, begin:end] = torch.arange(
            self.clock, self.clock + tokens, device=self.positions.device
        )
        for tensor in self.state.values():
            tensor[:, :, begin:end] = 0
        self.pending += tokens
        self.clock += tokens
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens seen so far, not slots in use."""
        return self.clock

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_max_length(self) -> int:
        return -1 if self.budget is None else self.budget + self.interval

    # -- slots ---------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        return int(self.keys.shape[-2])

    @property
    def used(self) -> int:
        """Slots up to and including the newest token."""
        return self.start + self.pending

    @property
    def bytes_per_slot(self) -> int:
        """K and V of one slot, all heads and rows."""
        return self.keys[:, :, :1].nbytes + self.values[:, :, :1].nbytes

    @property
    def lengths(self) -> Tensor:
        """[B, Hkv] int64, slots in use below `start`."""
        return self._lengths

    @lengths.setter
    def lengths(self, lengths: Tensor) -> None:
        self._lengths, self._ragged = lengths, None

    @property
    def ragged(self) -> bool:
        """Whether some head has unused slots below `start`. Waits for the device once per eviction."""
        if self._ragged is None:
            self._ragged = self.start > 0 and bool((self.lengths < self.start).any())
        return self._ragged

    def rows(self, begin: int, end: int) -> "BoundedLayer":
        """Documents begin … end of the batch as a layer.

        Its tensors are views: in-place writes reach this layer, assignments to its attributes do not.
        """
        part = copy(self)
        part.keys, part.values, part.positions, part.lengths = (
            tensor[begin:end] for tensor in (self.keys, self.values, self.positions, self.lengths)
        )
        part._ragged = False if self._ragged is False else None  # some rows may be even if not all are
        part.state = {name: tensor[begin:end] for name, tensor in self.state.items()}
        part.queries = None if self.queries is None else self.queries[begin:end]
        return part

    def parts(self, bytes_a_row: int, limit: int) -> Iterator[tuple[slice, "BoundedLayer"]]:
        """The batch in parts of as many documents as `limit` bytes of temporaries allow, at least one."""
        batch, size = self.lengths.shape[0], max(1, limit // bytes_a_row)
        if size >= batch:
            yield slice(0, batch), self
            return
        for begin in range(0, batch, size):
            end = min(begin + size, batch)
            yield slice(begin, end), self.rows(begin, end)

    def unused(self) -> Tensor:
        """[B, Hkv, used] bool: slots that hold no token."""
        slots = torch.arange(self.used, device=self.lengths.device)
        return (slots >= self.lengths.unsqueeze(-1)) & (slots < self.start)

    def ranks(self) -> Tensor:
        """[B, Hkv, used] int64: index of each slot's token among its head's tokens."""
        ranks = torch.arange(self.used, device=self.lengths.device).expand(*self.lengths.shape, self.used)
        gap = (self.start - self.lengths).unsqueeze(-1)
        return torch.where(ranks >= self.start, ranks - gap, ranks)

    def compact(self, scores: Tensor, threshold: float | None = None, rectangular: bool = False) -> None:
        """Keep each head's best tokens, in text order; among equal scores the newest wins.

        Args:
            scores: [B, Hkv, used], finite or +∞; higher scores are kept. Slots without a token are ignored.
            threshold: tokens scored below it are dropped even if there is room.
            rectangular: all heads of a document keep the same number of tokens: that of the head with the
                most tokens above the threshold, so the other heads also keep some below it. Documents stay
                independent, whereas the reference implementation uses the longest head of the whole batch.

        Raises:
            RuntimeError: there is no budget, but the keep rule needs one.
        """
        if self.budget is None and not rectangular:
            raise RuntimeError("a cache without a budget does not evict")
        used = self.used  # it changes with `start` below
        room = used if self.budget is None else min(self.budget, used)
        if self.ragged:
            scores = scores.masked_fill(self.unused(), -torch.inf)
        newest_first = scores.flip(-1).sort(dim=-1, descending=True, stable=True)
        best = used - 1 - newest_first.indices[..., :room]
        if threshold is None and not rectangular and not self.ragged:
            # Every head keeps `room` tokens; known without synchronising with the GPU.
            self.lengths, self.start = torch.full_like(self.lengths, room), room
            self._ragged = False
            self._move(best.sort(dim=-1).values)
            return
        floor = -torch.inf if threshold is None else threshold
        values = newest_first.values[..., :room]
        kept = (values >= floor) & (values > -torch.inf)
        if rectangular:
            longest = kept.sum(-1).amax(-1)[:, None, None]
            kept = (torch.arange(room, device=kept.device) < longest) & (values > -torch.inf)
        # Dropped entries sort after every slot, so the kept ones are packed to the front in text order.
        order = best.masked_fill(~kept, used).sort(dim=-1).values
        self.lengths = kept.sum(-1)
        self.start = int(self.lengths.max())
        self._move(order[..., : self.start].clamp(max=used - 1))

    def _move(self, order: Tensor) -> None:
        """Move slots `order` [B, Hkv, K] (ascending) to the front; afterwards no token is pending."""
        attention = [] if self.probe is None else [self.probe.attention]
        for tensor in (self.keys, self.values, self.positions, *self.state.values(), *attention):
            _gather_to_front(tensor, order)
        self.pending = 0

    def check_integrity(self) -> None:
        """Raise RuntimeError if the layer's state is inconsistent."""
        if not 0 <= self.pending <= (self.interval if self.budget is not None else self.clock):
            raise RuntimeError(f"pending tokens out of range: {self.pending}")
        if self.used > self.capacity or int(self.lengths.max()) != self.start:
            raise RuntimeError(f"lengths do not match the first pending slot {self.start}")
        in_use = self.positions[:, :, : self.used].masked_fill(self.unused(), -1)
        previous = torch.cummax(in_use, dim=-1).values[..., :-1]
        if ((in_use[..., 1:] >= 0) & (in_use[..., 1:] <= previous)).any():
            raise RuntimeError("slots are not in text order")
        if self.used and int(in_use.max()) != self.clock - 1:
            raise RuntimeError("the newest token is missing")

    def _grow(self, needed: int) -> None:
        # An eighth at least, so that copying costs no more than a few times the final size.
        extra = _rounded(max(needed - self.capacity, self.capacity // 8))
        self.keys, self.values = _pad(self.keys, extra), _pad(self.values, extra)
        self.positions = _pad(self.positions, extra)
        self.state = {name: _pad(tensor, extra) for name, tensor in self.state.items()}


class BoundedCache(Cache):  # type: ignore[misc]
    """One `BoundedLayer` per decoder layer."""

    layers: list[BoundedLayer]

    def __init__(
        self,
        layers: int,
        budget: int | None,
        interval: int,
        state: Mapping[str, int],
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        placements = (Placement(index, layers, *shard) for index in range(layers))
        super().__init__(
            layers=[BoundedLayer(budget, interval, state, placement) for placement in placements]
        )

    @property
    def pending(self) -> int:
        """Tokens since the last eviction."""
        return self.layers[0].pending

    def resident_bytes(self) -> int:
        """Bytes allocated for keys, values, positions, lengths, the policy's state and the prompts'."""
        return sum(
            part.nbytes
            for layer in self.layers
            if layer.is_initialized
            for part in (
                layer.keys,
                layer.values,
                layer.positions,
                layer.lengths,
                *layer.state.values(),
                layer.probe,
            )
            if part is not None
        )


def _rounded(slots: int) -> int:
    return -(-slots // GROWTH) * GROWTH


def _gather_to_front(tensor: Tensor, order: Tensor, block: int = 4096) -> None:
    """Move slots `order` [B, H, K] (ascending, order[j] >= j) of [B, H, C, …] to the front, in place.

    Blocks are moved left to right, and a source is never left of its target, so one block of scratch
    suffices.
    """
    for begin in range(0, order.shape[-1], block):
        index = order[..., begin : begin + block]
        if tensor.dim() == 4:
            index = index.unsqueeze(-1).expand(-1, -1, -1, tensor.shape[-1])
        tensor[:, :, begin : begin + index.shape[2]] = tensor.gather(2, index)


def _pad(tensor: Tensor, extra: int) -> Tensor:
    shape = list(tensor.shape)
    shape[2] = extra
    return torch.cat((tensor, tensor.new_zeros(shape)), dim=2)
