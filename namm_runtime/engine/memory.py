"""A document's memory: the bounded cache after reading it, which can be saved, restored and forked."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from namm_runtime.attention.backends import Backend, select_backend
from namm_runtime.attention.context import Context
from namm_runtime.attention.guide import Guide
from namm_runtime.attention.spectrogram import HOP
from namm_runtime.cache import BoundedCache
from namm_runtime.engine import memory_file
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.base import Policy
from namm_runtime.probe import Probe

CHUNK = 512  # tokens of one forward pass
TURN_SHARE = (
    8  # a guided reading passes at most 1/8 as many prompt tokens as document tokens, after the first time
)


class Memory:
    """The cache of one document (or a batch of them), ready to continue reading or to answer.

    Args:
        budget: slots each KV head keeps at an eviction (None: all, or in parity mode the scorer's own cap).
        interval: tokens between evictions, a multiple of 16. Evictions happen at multiples of it, counted
            from the first token of the document to the last token of the answer.
        by_slot: cache-relative positions; otherwise positions in the text.
        backend: kernels of the two-pass path; by default the best ones for the model's device, or one pass on
            a CPU. `context.backend_name` says which.
        prompts: token ids of the prompts that guide the reading, as `Frame.prompt_ids` returns them.
        watch_last: the policy observes only this many queries before each eviction, a multiple of 16.
            Cheaper, but not the setting that scorers were evolved in. None: all queries.

    Raises:
        Refusal: `bad_interval`; `regime_mismatch` for settings that the policy's mode does not support.
    """

    def __init__(
        self,
        model: LoadedModel,
        policy: Policy,
        budget: int | None,
        interval: int = CHUNK,
        by_slot: bool = True,
        backend: Backend | None = None,
        watch_last: int | None = None,
        prompts: Sequence[Sequence[int]] = (),
    ) -> None:
        if interval < HOP or interval % HOP:
            raise Refusal(
                "bad_interval", f"the eviction interval must be a positive multiple of {HOP}, not {interval}"
            )
        if watch_last is not None and (watch_last % HOP or not 0 < watch_last <= interval):
            raise Refusal(
                "bad_interval",
                f"watch_last must be a multiple of {HOP} from {HOP} to {interval}, not {watch_last}",
            )
        if policy.mode == "parity" and model.shard[1] > 1:
            raise Refusal(
                "regime_mismatch",
                "parity mode keeps the same number of tokens in all heads of a layer, and tensor parallelism "
                "spreads them over several devices; use budget mode or device_map",
            )
        if watch_last is not None and policy.mode == "parity":
            raise Refusal("regime_mismatch", "parity mode does not support watch_last")
        if (prompts or policy.needs_prompts) and policy.mode == "parity":
            raise Refusal("regime_mismatch", "parity mode does not support guided reading")
        if policy.needs_prompts and not prompts:
            raise Refusal(
                "regime_mismatch", f"the policy '{policy.name}' needs prompts that guide the reading"
            )
        self.model, self.policy = model, policy
        self.budget = policy.room(budget, interval, by_slot)
        self.evicting = self.budget is not None or policy.mode == "parity"
        self.interval, self.by_slot = interval, by_slot
        self.cache = self._empty_cache()
        rotation = model.rotation.in_fp32() if policy.mode == "parity" else model.rotation
        backend = backend or select_backend(
            model.device, model.model.dtype, model.head_width, model.head_group
        )
        self.context = Context(self.cache, policy, rotation, by_slot, backend, watch_last)
        self.be_guided(prompts)
        self.score_seconds = 0.0  # of features, scores and evictions, until the caller resets it

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the largest temporaries of attention and scorer so far, from their shapes."""
        attending = self.context.scratch_bytes + self.policy.watch_scratch
        return max(attending, self.policy.score_scratch)

    @property
    def clock(self) -> int:
        """Tokens read so far."""
        return self.cache.layers[0].clock

    def be_guided(self, prompts: Sequence[Sequence[int]]) -> None:
        """From the next eviction on, let these prompts (token ids) guide the reading; none reads openly."""
        self.prompts = tuple(tuple(ids) for ids in prompts)
        limit = max(1, self.interval // TURN_SHARE)
        guide = Guide.of([self.prompts], limit, self.model.device) if self.prompts else None
        self.context.guide = guide if self.evicting else None
        for layer in self.cache.layers:
            layer.probe = None

    def evicted_attention(self, prompt: Sequence[int]) -> float | None:
        """The share of a prompt's attention to the document that fell on slots evicted since.

        The mean over layers and heads of the first document in the batch. None if the prompt did not guide
        the reading, or nothing was evicted.
        """
        probes = [layer.probe for layer in self.cache.layers if layer.probe is not None]
        if not probes or tuple(prompt) not in self.prompts:
            return None
        index = self.prompts.index(tuple(prompt))
        spared = [probe.spared[0, :, index].mean() for probe in probes]
        return 1 - float(torch.stack([value.cpu() for value in spared]).mean())

    @torch.inference_mode()
    def feed(self, ids: Tensor) -> Tensor:
        """Read ids [B, T], evicting every `interval` tokens. Returns the last token's logits [B, vocab]."""
        while True:
            room = min(CHUNK, self.interval - self.cache.pending) if self.evicting else CHUNK
            piece = ids[:, :room]
            due = self.evicting and self.cache.pending + piece.shape[1] == self.interval
            guided = due and self.context.guide is not None
            logits = (self._forward_guided(piece) if guided else self._forward(piece, 1))[:, -1]
            if due:
                begun = time.perf_counter()
                self.policy.evict(self.cache)
                self.score_seconds += time.perf_counter() - begun
            ids = ids[:, room:]
            if not ids.shape[1]:
                return logits

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Read ids [B, T], which must fit before the next eviction → logits [B, T, vocab] of every token."""
        return self._forward(ids, 0)

    def _empty_cache(self) -> BoundedCache:
        model = self.model
        return BoundedCache(model.layers, self.budget, self.interval, self.policy.state, model.shard)

    def _forward_guided(self, ids: Tensor) -> Tensor:
        """Read the last ids [B, T] before an eviction, behind which the prompts attend to the cache.

        Returns the last token's logits [B, 1, vocab].
        """
        guide, context = self.context.guide, self.context
        assert guide is not None
        turn = self.clock // self.interval % len(guide.turns)
        context.turn = guide.turns[turn] if self.cache.layers[0].probe else guide.whole
        begin, end = context.turn
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        ids = torch.cat((ids, guide.ids[:, begin:end].expand(len(ids), -1)), dim=1)
        try:
            for layer in self.cache.layers:
                layer.guest_tokens = end - begin
            return self._forward(ids, last)
        finally:
            for layer in self.cache.layers:
                layer.guest_tokens = 0

    def _forward(self, ids: Tensor, logits_to_keep: int | Tensor) -> Tensor:
        output = self.model.model(
            input_ids=ids,
            position_ids=torch.zeros_like(ids),  # the model's own rotation is the identity; see rope.py
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            context=self.context,
        )
        self.score_seconds += self.context.watch_seconds
        self.context.watch_seconds = 0.0
        logits: Tensor = output.logits.float()
        return logits

    def fork(self) -> "Memory":
        """An independent copy, so that many prompts can be asked about one document."""
        twin = copy(self)
        twin.cache = self._empty_cache()
        for mine, theirs in zip(self.cache.layers, twin.cache.layers, strict=True):
            theirs.__dict__.update(
                {
                    name: value.clone() if isinstance(value, Tensor | Probe) else value
                    for name, value in vars(mine).items()
                }
            )
            theirs.state = {name: tensor.clone() for name, tensor in mine.state.items()}
        twin.context = replace(self.context, cache=twin.cache, scratch_bytes=0)
        return twin

    def fork_for(self, prompt: Sequence[int]) -> "Memory":
        """A fork in which this prompt alone guides further evictions, if the reading was guided."""
        twin = self.fork()
        if self.prompts:
            twin.be_guided([prompt])
        return twin

    # -- on disk -------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Hash of what must match for a saved memory to be restored: model, policy, scorer and settings."""
        scorer = getattr(self.policy, "scorer", None)
        parts = {
            "format": memory_file.FORMAT,
            "model": [self.model.name, self.model.revision, str(self.model.model.dtype)],
            "tokenizer": self.model.tokenizer_sha256,
            "shard": self.model.shard,
            "policy": [self.policy.name, self.policy.settings],
            "scorer": scorer.identity if scorer else None,
            "settings": [self.budget, self.interval, self.by_slot, self.policy.mode, self.context.watch_last],
            "prompts": self.prompts,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The cache's contents: `LAYER.NAME` → tensor of the slots in use."""
        return memory_file.contents(self.cache)

    def save(
        self,
        path: Path,
        extra: dict[str, Any] | None = None,
        forks: "Mapping[str, Memory] | None" = None,
    ) -> None:
        """Write one safetensors file atomically.

        Args:
            extra: JSON that `restore` returns.
            forks: forks of this memory by name, to be restored by that name.

        Raises:
            OSError: it cannot be written.
            Refusal: `snapshot_unsupported` while a normaliser gathers statistics, which span documents.
        """
        normaliser = getattr(self.policy, "normaliser", None)
        if normaliser is not None and not normaliser.frozen:
            raise Refusal(
                "snapshot_unsupported", "a memory whose normaliser still gathers statistics cannot be saved"
            )
        caches = {"": self.cache} | {name: fork.cache for name, fork in (forks or {}).items()}
        memory_file.save(path, self.fingerprint(), caches, extra or {})

    def restore(self, path: Path, fork: str = "") -> dict[str, Any]:
        """Load a saved memory; returns `extra`. A fork saved with it is loaded into a fork of that memory.

        Raises:
            Refusal: `snapshot_unreadable`, or `snapshot_mismatch` if it was saved with another model, scorer
                or setting.
        """
        devices = [self.model.layer_device(index) for index in range(self.model.layers)]
        # A fork may be guided by other prompts than the memory whose fingerprint the file has.
        return memory_file.restore(path, None if fork else self.fingerprint(), self.cache, devices, fork)
