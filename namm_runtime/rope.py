"""The one place that rotates queries and keys.

transformers hands a cache keys that are already rotated, and no angles. The model is therefore run with
`position_ids = 0`, where its own rotation is the identity (times `attention_scaling`, applied exactly once),
keys are stored unrotated, and this module rotates them by whatever position the memory gives them.
"""

import torch
from torch import Tensor, nn

from namm_runtime.errors import Refusal


class Rotation:
    """Rotary embedding with angles in double precision, since fp32 angles are off by 0.03 rad at position 1M.

    Args:
        inv_freq: [D/2] inverse frequencies, as the model's own RoPE variant computes them.
        angles: precision of position × frequency.
    """

    def __init__(self, inv_freq: Tensor, angles: torch.dtype = torch.float64) -> None:
        self.inv_freq = inv_freq.detach().to(angles)
        self._cos = self._sin = torch.empty(0, device=inv_freq.device)

    @classmethod
    def of(cls, model: nn.Module) -> "Rotation":
        """Take the frequencies of a loaded Hugging Face decoder.

        Raises:
            Refusal: `rope_unsupported` for dynamic NTK, which would rotate cached keys by several bases.
        """
        rotary = model.get_decoder().rotary_emb  # type: ignore[operator]
        if rotary.rope_type in {"dynamic", "longrope"}:
            raise Refusal(
                "rope_unsupported",
                f"the model's RoPE type '{rotary.rope_type}' changes its frequencies with the length, so "
                "cached keys would disagree; use a checkpoint with default, linear, llama3 or yarn scaling",
            )
        return cls(rotary.inv_freq)

    def in_fp32(self) -> "Rotation":
        """The same with angles rounded as the reference implementation (and transformers) rounds them."""
        return Rotation(self.inv_freq, torch.float32)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [..., T, D] by integer positions [..., T] (leading dimensions broadcast)."""
        angles = positions.unsqueeze(-1).to(self.inv_freq.dtype) * self.inv_freq
        return _apply(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))

    def rotate_range(self, x: Tensor, first: int) -> Tensor:
        """Rotate x [..., T, D] by positions first, first + 1, …, the same for every head, from a table."""
        last = first + x.shape[-2]
        if self._cos.shape[0] < last or self._cos.dtype != x.dtype:
            size = max(1024, 1 << (last - 1).bit_length())
            angles = torch.arange(size, device=x.device).to(self.inv_freq.dtype).unsqueeze(-1) * self.inv_freq
            self._cos, self._sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return _apply(x, self._cos[first:last], self._sin[first:last])


def ntk_base(theta: float, width: int, factor: float, alpha: float) -> float:
    """Base of a static NTK extension: default RoPE with a larger theta, from the first token on.

    The reference policy was evolved on a Llama 3 with factor 4 and alpha 2; give the result to the model's
    configuration as `rope_theta`.

    Args:
        width: of a head.
    """
    stretch = alpha * factor - (alpha - 1)
    return float(theta * stretch ** (width / (width - 2)))


def _apply(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
