"""Temporaries that are used again and again instead of being allocated for every block, one set a thread.

The allocator returns large blocks to the system, and a fresh page costs a fault when it is first touched:
on a CPU that took longer than the arithmetic (`python -m benchmarks time-breakdown`).
"""

import threading

import torch
from torch import Tensor


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}


_BUFFERS = _Buffers()


def take(name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of a shape, on the device of another and with its dtype unless one is given.

    Its memory is that of this thread's last tensor of the same name, which is overwritten. However many
    documents and layers a thread computes, it holds one buffer a name, as large as the largest asked for.
    """
    dtype, size = dtype or like.dtype, torch.Size(shape).numel()
    buffer = _BUFFERS.named.get(name)
    if buffer is None or len(buffer) < size or (buffer.dtype, buffer.device) != (dtype, like.device):
        with torch.inference_mode(False):  # an inference tensor could not be written outside that mode
            buffer = torch.empty(size, dtype=dtype, device=like.device)
        _BUFFERS.named[name] = buffer
    return buffer[:size].view(shape)
