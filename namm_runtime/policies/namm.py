"""The learned policy: attention spectrogram and recency, scored by a backward attention memory (BAM)."""

import math

import torch
from torch import Tensor

from namm_runtime.attention.columns import ColumnSource, Fold
from namm_runtime.attention.spectrogram import BINS, Spectrogram
from namm_runtime.cache import BoundedLayer
from namm_runtime.device_constants import DeviceConstants
from namm_runtime.errors import Refusal
from namm_runtime.policies.base import Policy
from namm_runtime.policies.keydiff import key_similarity
from namm_runtime.scorer.checkpoint import PLACE_FLOATS, Scorer
from namm_runtime.scorer.normaliser import Moments, Normaliser

SCORE_BYTES = 8 << 20  # temporaries of documents scored together; a single one may take more


class Namm(Policy):
    """A neural attention memory model (arXiv 2410.13166).

    If the scorer ignores the spectrum, attention is not observed, and reading is as fast as with a key-based
    policy.

    Args:
        scorer: parameters, normaliser and the regime they were evolved in.
        parameters: [B, size] instead of the scorer's own, one vector per row, to evaluate a population.
        mode: `parity` is the reference implementation's keep rule: no budget except the scorer's own cap, one
            length for all heads of a layer, only the newest token protected, the eviction interval of the
            scorer's regime, and absolute positions with fp32 angles. `budget` fills each head's slots with
            its best tokens.
        normaliser: replaces the scorer's own frozen one, to gather statistics.

    Raises:
        Refusal: `regime_mismatch` if the scorer uses features that the reference does not have.
    """

    name = "namm"

    def __init__(
        self,
        scorer: Scorer,
        parameters: Tensor | None = None,
        mode: str = "budget",
        normaliser: Normaliser | None = None,
    ) -> None:
        self.scorer, self.mode = scorer, mode
        if mode == "parity":
            _refuse_extras(scorer)
        self._parameters = DeviceConstants(scorer.parameters if parameters is None else parameters)
        self.threshold = scorer.config.threshold
        # The number of spectra behind the statistics does not matter once they are frozen.
        self.normaliser = normaliser or Normaliser(Moments(scorer.mean, scorer.variance, 1))
        self.spectrogram = Spectrogram(scorer.config.gamma)
        self.observes = not scorer.config.spectrum_zeroed
        self.state = Spectrogram.state if self.observes else {}
        half = scorer.config.recency_floats // 2
        self._frequencies = DeviceConstants(
            scorer.config.recency_base ** (-torch.arange(half).double() / half)
        )

    def room(self, budget: int | None, interval: int, by_slot: bool) -> int | None:
        if self.mode != "parity":
            return budget
        regime = self.scorer.regime
        if by_slot:
            reason = "absolute positions, not cache-relative ones"
        elif budget not in (None, regime.budget):
            reason = f"the scorer's own cap ({regime.budget or 'none'}), not a budget of {budget} slots"
        elif interval != regime.interval:
            reason = f"an eviction every {regime.interval} tokens as evolved, not every {interval}"
        else:
            return regime.budget
        raise Refusal("regime_mismatch", f"parity mode requires {reason}")

    def observe(self, layer: BoundedLayer, columns: Tensor) -> None:
        self.spectrogram.fold_into(layer.state, columns)
        self.watch_scratch = self.spectrogram.scratch_bytes

    def observe_qk(self, layer: BoundedLayer, source: ColumnSource, fold: Fold) -> None:
        """The same without columns: `fold` recomputes them from queries and keys."""
        fold(self.spectrogram, source, layer.state["ema"], layer.state["carry"])
        self.watch_scratch = self.spectrogram.scratch_bytes

    def features(self, layer: BoundedLayer) -> Tensor:
        """[B, Hkv, used, F]: recency, then the normalised spectrum, then the optional inputs."""
        config = self.scorer.config
        parts = [self._recency(layer), self._spectrum(layer)]
        if config.key_input:
            parts.append((key_similarity(layer).unsqueeze(-1) - config.key_mean) / config.key_deviation)
        if config.place_input:
            parts.append(_place(layer, parts[0]))
        return torch.cat(parts, dim=-1)

    def _spectrum(self, layer: BoundedLayer) -> Tensor:
        """[B, Hkv, used, 17], normalised."""
        if not self.observes:
            return torch.zeros(*layer.keys.shape[:2], layer.used, BINS, device=layer.keys.device)
        # Unused slots matter only while statistics are gathered.
        counted = None if self.normaliser.frozen or not layer.ragged else ~layer.unused()
        return self.normaliser(layer.state["ema"][:, :, : layer.used], counted)

    def scores(self, layer: BoundedLayer) -> Tensor:
        config, (parameters,) = self.scorer.config, self._parameters.on(layer.keys.device)
        # Features, their reversed and updated copies; queries, keys, values and attention outputs.
        a_row = layer.keys.shape[1] * layer.used * 4 * (5 * config.features + 4 * config.width)
        scores = []
        for rows, part in layer.parts(a_row, SCORE_BYTES):
            self.score_scratch = max(self.score_scratch, a_row * (rows.stop - rows.start))
            scores.append(self._scores(part, parameters if parameters.dim() == 1 else parameters[rows]))
        return scores[0] if len(scores) == 1 else torch.cat(scores)

    def _scores(self, layer: BoundedLayer, parameters: Tensor) -> Tensor:
        x, network = self.features(layer), self.scorer.config.network
        if not layer.ragged:
            return network.score(parameters, x)
        # Tokens attend to newer ones only, so unused slots are sorted before all tokens to have no effect.
        positions = layer.positions[:, :, : layer.used].masked_fill(layer.unused(), -1)
        order = positions.argsort(dim=-1, stable=True)
        packed = x.gather(2, order.unsqueeze(-1).expand_as(x))
        return torch.empty_like(positions, dtype=x.dtype).scatter_(
            2, order, network.score(parameters, packed)
        )

    def _recency(self, layer: BoundedLayer) -> Tensor:
        """[B, Hkv, used, 8]: sines, then cosines of the (clipped) distance to the newest token."""
        age = layer.clock - 1 - layer.positions[:, :, : layer.used]
        if self.scorer.config.recency_clip is not None:
            age = age.clamp(max=self.scorer.config.recency_clip)
        angle = age.unsqueeze(-1).double() * self._frequencies.on(age.device)[0]
        return torch.cat((angle.sin(), angle.cos()), dim=-1).float()


def _place(layer: BoundedLayer, like: Tensor) -> Tensor:
    """[B, Hkv, N, 6] for `like` [B, Hkv, N, …]: low-frequency cosines of the layer's and the head's place.

    Normalised by the number of layers and heads, so that a scorer can serve a model of another shape.
    """
    placement, (batch, heads, slots, _) = layer.placement, like.shape
    head = torch.arange(heads, device=like.device) + placement.shard * heads
    in_layers = torch.full((heads,), (placement.layer + 0.5) / placement.layers, device=like.device)
    in_heads = (head + 0.5) / (heads * placement.shards)
    waves = [math.pi * k * in_layers for k in range(1, 5)] + [math.pi * k * in_heads for k in (1, 2)]
    return torch.stack(waves, dim=-1).cos()[None, :, None].expand(batch, heads, slots, PLACE_FLOATS)


def _refuse_extras(scorer: Scorer) -> None:
    config = scorer.config
    extras = {
        "clips recency": config.recency_clip is not None,
        "has no threshold": config.threshold is None,
        "uses keys": config.key_input,
        "uses the place of layers and heads": config.place_input,
        "ignores the spectrum": config.spectrum_zeroed,
    }
    found = [what for what, present in extras.items() if present]
    if found:
        raise Refusal(
            "regime_mismatch",
            f"the scorer '{scorer.name}' {' and '.join(found)}, which the reference implementation does not "
            "support; use budget mode",
        )
