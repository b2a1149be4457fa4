"""Rotary position embeddings; the only place that rotates queries and keys.

transformers passes keys to a cache already rotated, without the angles. The model is therefore run with
`position_ids = 0`, where its own rotation is the identity (times `attention_scaling`, applied exactly once),
keys are stored unrotated, and this module rotates them by the positions that the memory assigns.
"""

import torch
from torch import Tensor, nn

from namm_runtime.device_constants import DeviceConstants
from namm_runtime.errors import Refusal

# Static types, whose frequencies are the same for every token. Static NTK is `default` with a larger base.
TYPES = ("default", "linear", "llama3", "yarn")


def check_type(rope_type: str) -> None:
    """Refuse RoPE types not in `TYPES`.

    Raises:
        Refusal: `rope_unsupported`. Dynamic NTK and longrope would rotate cached keys with several bases, and
            others have not been verified.
    """
    if rope_type in TYPES:
        return
    why = (
        "changes its frequencies with the length, so cached keys would be inconsistent"
        if rope_type in {"dynamic", "longrope"}
        else "has not been verified against transformers"
    )
    raise Refusal(
        "rope_unsupported",
        f"the model's RoPE type '{rope_type}' {why}; use a checkpoint with "
        f"{', '.join(TYPES[:-1])} or {TYPES[-1]} scaling",
    )


class Rotation:
    """Rotary embedding with angles in fp64, since fp32 angles are off by 0.03 rad at position 1M.

    Args:
        inv_freq: [D/2] inverse frequencies, as the model's own RoPE variant computes them.
        angles: precision of position × frequency.
    """

    def __init__(self, inv_freq: Tensor, angles: torch.dtype = torch.float64) -> None:
        self.inv_freq = inv_freq.detach().to(angles)
        self._frequencies = DeviceConstants(self.inv_freq)
        # By device, since the layers of a large model may be on several.
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, model: nn.Module) -> "Rotation":
        """Take the frequencies of a loaded Hugging Face decoder.

        Raises:
            Refusal: `rope_unsupported`, as `check_type` does.
        """
        rotary = model.get_decoder().rotary_emb  # type: ignore[operator]
        check_type(rotary.rope_type)
        return cls(rotary.inv_freq)

    def in_fp32(self) -> "Rotation":
        """The same with fp32 angles, as in the reference implementation and in transformers."""
        return Rotation(self.inv_freq, torch.float32)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [..., T, D] by integer positions [..., T] (leading dimensions broadcast)."""
        angles = positions.unsqueeze(-1).to(self.inv_freq.dtype) * self._on(positions.device)
        return _apply(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))

    def rotate_range(self, x: Tensor, first: int) -> Tensor:
        """Rotate x [..., T, D] by positions first, first + 1, …, the same in every head, using a table."""
        last = first + x.shape[-2]
        cos, sin = self._tables.get(x.device, (None, None))
        if cos is None or sin is None or cos.shape[0] < last or cos.dtype != x.dtype:
            size = max(1024, 1 << (last - 1).bit_length())
            places = torch.arange(size, device=x.device).to(self.inv_freq.dtype)
            angles = places.unsqueeze(-1) * self._on(x.device)
            cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
            self._tables[x.device] = cos, sin
        return _apply(x, cos[first:last], sin[first:last])

    def _on(self, device: torch.device) -> Tensor:
        """The frequencies [D/2] on that device."""
        return self._frequencies.on(device)[0]


def ntk_base(theta: float, width: int, factor: float, alpha: float) -> float:
    """Base of a static NTK extension: default RoPE with a larger theta, from the first token on.

    The reference policy was evolved on a Llama 3 with factor 4 and alpha 2; set the result as `rope_theta` in
    the model's configuration.

    Args:
        width: head dimension.
    """
    stretch = alpha * factor - (alpha - 1)
    return float(theta * stretch ** (width / (width - 2)))


def _apply(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
