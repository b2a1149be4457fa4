"""Temporaries that are used again and again instead of being allocated for every block.

The allocator returns large blocks to the system, and a fresh page costs a fault when it is first touched:
on a CPU that took longer than the arithmetic (`python -m benchmarks shares`).
"""

import torch
from torch import Tensor


class Workspace:
    """Named buffers that grow to the largest shape asked for. What a name held before is overwritten."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of a shape, with the dtype and device of another."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size or (buffer.dtype, buffer.device) != (like.dtype, like.device):
            with torch.inference_mode(False):  # an inference tensor could not be written outside that mode
                buffer = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)
