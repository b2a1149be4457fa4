"""Constants on the device that needs them."""

import torch
from torch import Tensor


class DeviceConstants:
    """Tensors that do not change, with a copy on every device that asked.

    A copy to a GPU is waited for, and would be at every layer of every eviction.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = {tensors[0].device: tensors}

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._copies:
            first = next(iter(self._copies.values()))
            self._copies[device] = tuple(tensor.to(device) for tensor in first)
        return self._copies[device]
