"""On which devices a model is loaded."""

import os
from importlib import util
from typing import Any

import torch

from namm_runtime.errors import Refusal

DeviceMap = str | dict[str, str | int] | None


def computes_on_cpu(device: str, device_map: DeviceMap, tensor_parallel: bool) -> bool:
    """Whether no accelerator takes part."""
    if not torch.accelerator.is_available():
        return True
    if isinstance(device_map, dict):
        return {str(where) for where in device_map.values()} <= {"cpu", "disk"}
    return device_map == "cpu" or (device_map is None and not tensor_parallel and device == "cpu")


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        Refusal: `bad_request`.
    """
    if device == "auto":
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise Refusal("bad_request", f"the device '{device}' cannot be used: {first}") from None


def options(device_map: DeviceMap, tensor_parallel: bool) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a model on several devices.

    Raises:
        Refusal: `bad_request`, `extra_missing`.
    """
    if device_map is not None and tensor_parallel:
        raise Refusal("bad_request", "device_map and tensor parallelism cannot be combined")
    if tensor_parallel:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    if device_map is None:
        return {}
    if util.find_spec("accelerate") is None:
        raise Refusal("extra_missing", "device_map needs accelerate: pip install 'palimpsest[large]'")
    return {"device_map": device_map}


def shard() -> tuple[int, int]:
    """This process's rank and the world size, as set by torchrun.

    Raises:
        Refusal: `bad_request`.
    """
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise Refusal(
            "bad_request",
            "tensor parallelism needs one process per device: torchrun --nproc-per-node N -m …",
        ) from None
