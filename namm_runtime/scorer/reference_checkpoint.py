"""Import checkpoints of the reference implementation's trainer, without trusting the file.

Its checkpoints are pickles in a zip. Of 210 MB only 17 kB are the scorer: the mean of the search distribution
and the normaliser's buffers. Everything else (covariances, paths, populations) is ignored. They contain no
hyper-parameters, so the published ones are assumed unless the size of the vector implies others.
"""

import hashlib
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from namm_runtime.attention.spectrogram import BINS
from namm_runtime.errors import Refusal
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from namm_runtime.scorer.regime import Regime

MAX_BYTES = 1 << 30  # five times the size of a real checkpoint
BUFFERS = "stored_buffers_to_save.token_embedding_0_"
VECTORS = ("mean", "best_member")

# Configurations of the reference; each has a different number of parameters.
NETWORKS = (
    *(
        ScorerConfig(width=width, multiply=multiply, bias=bias)
        for width in (32, 16)
        for multiply in (True, False)
        for bias in (True, False)
    ),
    *(
        ScorerConfig(kind="mlp", width=25, depth=depth, bias=bias)
        for depth in (1, 2, 3)
        for bias in (True, False)
    ),
    *(ScorerConfig(kind="mlp", width=16, depth=2, bias=bias, residual=False) for bias in (True, False)),
)


def import_checkpoint(
    path: Path, *, name: str = "imported", vector: str = "mean", cap: int | None = None
) -> Scorer:
    """Read a trainer's `ckpt.pt` as a scorer for parity mode.

    Args:
        vector: `mean` is what the reference evaluates and deploys; `best_member` is the best single
            candidate.
        cap: the selection's `cache_size`, which only the run's configuration contains.

    Raises:
        Refusal: `checkpoint_unreadable` (missing, truncated, oversized, not written by torch.save),
            `checkpoint_unsafe` (the pickle needs more than tensors and numbers), `checkpoint_wrong_shape`,
            `checkpoint_not_finite`, `bad_request`.
    """
    if vector not in VECTORS or (cap is not None and cap < 1):
        raise Refusal("bad_request", f"vector must be one of {', '.join(VECTORS)}, and cap at least 1")
    digest = _checked_file(path)
    top = _load(path)
    state = _state(top, path)
    parameters = _tensor(state, vector)
    config = next((c for c in NETWORKS if (c.network.size,) == tuple(parameters.shape)), None)
    if config is None:
        sizes = ", ".join(str(c.network.size) for c in NETWORKS)
        raise Refusal(
            "checkpoint_wrong_shape",
            f"'{vector}' has the shape {tuple(parameters.shape)}; known scorers have {sizes} parameters",
        )
    mean, variance, source = _normaliser(state)
    provenance = {
        "method": "imported from a checkpoint of the reference implementation's trainer",
        "source": {"file": path.name, "sha256": digest, "bytes": path.stat().st_size},
        "iteration": _number(top.get("iter_num")),
        "validation_score": _number(top.get("best_val_loss")),  # higher is better, whatever its name says
        "vector": vector,
        "normaliser": source,
        "assumed": "hyper-parameters of the published recipe, which the file does not hold",
    }
    regime = Regime(mode="parity", budget=cap, interval=512, positions="absolute")
    return Scorer(name, "1", config, parameters, mean, variance, regime, provenance)


def _checked_file(path: Path) -> str:
    """Check that the file is an uncompressed zip of at most MAX_BYTES → its sha256."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Refusal("checkpoint_unreadable", f"{path.name} is larger than {MAX_BYTES} bytes")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise Refusal(
                    "checkpoint_unreadable", f"{path.name} is compressed, unlike files from torch.save"
                )
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise Refusal("checkpoint_unreadable", f"{path.name} unpacks to more than {MAX_BYTES} bytes")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, zipfile.BadZipFile) as error:
        raise Refusal(
            "checkpoint_unreadable", f"{path.name} is not a complete file from torch.save: {error}"
        ) from None


class _Float64Type:
    """Replaces numpy's type of the one scalar in the file, so that no numpy code runs while unpickling."""

    def __init__(self, *arguments: object) -> None:
        if arguments != ("f8", False, True):
            raise pickle.UnpicklingError(f"Unsupported numpy type {arguments!r}")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1:2] != ("<",):
            raise pickle.UnpicklingError("Unsupported byte order of a numpy scalar")


def _float64(kind: object, data: object) -> float:
    if not isinstance(kind, _Float64Type) or not isinstance(data, bytes) or len(data) != 8:
        raise pickle.UnpicklingError("Unsupported numpy scalar")
    return float(struct.unpack("<d", data)[0])


def _load(path: Path) -> dict[str, Any]:
    # Memory-mapped, so that unused matrices are never read. numpy 2 moved the scalar to another module.
    allowed: list[Any] = [
        (_float64, "numpy.core.multiarray.scalar"),
        (_float64, "numpy._core.multiarray.scalar"),
        (_Float64Type, "numpy.dtype"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            top = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise Refusal(
            "checkpoint_unsafe",
            f"{path.name} contains more than tensors and numbers, so it was not loaded: {_wanted(error)}",
        ) from None
    except Exception as error:  # torch may raise anything for a damaged file
        reason = str(error).split("\n")[0]
        raise Refusal("checkpoint_unreadable", f"{path.name} cannot be read: {reason}") from None
    if not isinstance(top, dict):
        raise Refusal(
            "checkpoint_unreadable",
            f"{path.name} contains a {type(top).__name__}, not a trainer's checkpoint",
        )
    return top


def _wanted(error: pickle.UnpicklingError) -> str:
    """What the pickle asked for, without torch's advice to load it anyway."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]{1,100})", text)
    if named:
        return f"it asks for '{named[1]}'"
    reason = text.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return "torch refuses it" if "weights_only" in reason else reason[:200]


def _state(top: dict[str, Any], path: Path) -> dict[str, Any]:
    """The evolution state's entries, without the prefix that torch.compile adds."""
    state = top.get("evolution_state")
    if not isinstance(state, Mapping):
        raise Refusal(
            "checkpoint_unreadable", f"{path.name} has no 'evolution_state'; is it a trainer's ckpt.pt?"
        )
    return {str(name).replace("_orig_mod.", ""): value for name, value in state.items()}


def _tensor(state: dict[str, Any], name: str) -> Tensor:
    """A finite fp32 copy of an entry."""
    value = state.get(name)
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise Refusal("checkpoint_wrong_shape", f"the checkpoint has no dense tensor '{name}'")
    if value.numel() > 2 * max(c.network.size for c in NETWORKS):  # a view may claim any size
        raise Refusal(
            "checkpoint_wrong_shape", f"'{name}' has the shape {tuple(value.shape)}, which is far too large"
        )
    if value.is_complex() or not torch.isfinite(value.float()).all():
        raise Refusal("checkpoint_not_finite", f"'{name}' contains values that are not finite")
    return value.detach().float().clone()


def _normaliser(state: dict[str, Any]) -> tuple[Tensor, Tensor, str]:
    """The statistics in use, else those being gathered, else the identity."""
    for which in ("output", "online_new_output"):
        mean, variance, count = (
            _tensor(state, f"{BUFFERS}{which}_{part}") for part in ("mean", "var", "num")
        )
        for part, tensor in {"mean": mean, "var": variance, "num": count}.items():
            if tuple(tensor.shape) != (1, 1, 1, BINS):
                raise Refusal(
                    "checkpoint_wrong_shape",
                    f"'{BUFFERS}{which}_{part}' has the shape {tuple(tensor.shape)}, not (1, 1, 1, {BINS})",
                )
        if (variance < 0).any() or (count < 0).any():
            raise Refusal(
                "checkpoint_not_finite", f"the normaliser '{which}' has a negative variance or count"
            )
        if (count > 0).all():
            source = f"{which}, gathered over {int(count.max())} spectra"
            return mean.flatten(), variance.flatten(), source
    return torch.zeros(BINS), torch.ones(BINS), "none gathered: spectra are not normalised"


def _number(value: object) -> float | int | None:
    """The value if it is a finite number, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
