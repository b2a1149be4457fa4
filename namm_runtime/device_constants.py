"""Constant tensors, copied once to every device that needs them."""

import torch
from torch import Tensor


class DeviceConstants:
    """Constant tensors with a cached copy per device.

    Copying to a GPU blocks, and would otherwise happen in every layer at every eviction.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = {tensors[0].device: tensors}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._copies:
            first = next(iter(self._copies.values()))
            self._copies[device] = tuple(tensor.to(device) for tensor in first)
        return self._copies[device]
