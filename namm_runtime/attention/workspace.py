"""Reusable buffers for temporaries, one set per thread.

The allocator returns large blocks to the operating system, and every fresh page costs a page fault on first
touch: on a CPU that took longer than the arithmetic (`python -m benchmarks time-breakdown`).
"""

import threading

import torch
from torch import Tensor


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}


_BUFFERS = _Buffers()


def take(name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor on the device of `like`, with its dtype unless one is given.

    It reuses the memory of this thread's previous tensor of the same name, which is overwritten. However many
    documents and layers a thread computes, it holds one buffer per name, as large as the largest request.
    """
    dtype, size = dtype or like.dtype, torch.Size(shape).numel()
    buffer = _BUFFERS.named.get(name)
    if buffer is None or len(buffer) < size or (buffer.dtype, buffer.device) != (dtype, like.device):
        with torch.inference_mode(False):  # an inference tensor could not be written to outside that mode
            buffer = torch.empty(size, dtype=dtype, device=like.device)
        _BUFFERS.named[name] = buffer
    return buffer[:size].view(shape)
