"""Files of scorers to upload: good ones, and every way of spoiling them that the tests know."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save

from namm_runtime.scorer.checkpoint import BUNDLED

TENSORS = (BUNDLED / "namm-key" / "scorer.safetensors").read_bytes()
MANIFEST: dict[str, Any] = json.loads((BUNDLED / "namm-key" / "manifest.json").read_bytes())
BUFFERS = "stored_buffers_to_save.token_embedding_0_"


def manifest(name: str = "mine", version: str | None = "1", **changes: Any) -> dict[str, Any]:
    """A good manifest, with its entries changed; a version of None leaves it out."""
    made = MANIFEST | {"name": name, "version": version} | changes
    return {entry: value for entry, value in made.items() if entry != "version" or value is not None}


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> tuple[bytes, dict[str, Any]]:
    """Tensors with a change and a manifest whose hash is right, so that only the content is wrong."""
    tensors = load(TENSORS)
    change(tensors)
    content = save(tensors)
    return content, manifest(sha256=hashlib.sha256(content).hexdigest())


def _with_value(name: str, value: float) -> tuple[bytes, dict[str, Any]]:
    return changed(lambda tensors: tensors[name].__setitem__(0, value))


def _replaced(name: str, value: torch.Tensor) -> tuple[bytes, dict[str, Any]]:
    return changed(lambda tensors: tensors.__setitem__(name, value))


def _hashed(content: bytes) -> tuple[bytes, dict[str, Any]]:
    return content, manifest(sha256=hashlib.sha256(content).hexdigest())


def _config(**values: Any) -> tuple[bytes, dict[str, Any]]:
    return TENSORS, manifest(config=MANIFEST["config"] | values)


def _huge_scores(tensors: dict[str, torch.Tensor]) -> None:
    tensors["parameters"].fill_(3e38)


SPOILT: dict[str, Callable[[], tuple[bytes, dict[str, Any]]]] = {
    "empty": lambda: _hashed(b""),
    "cut short": lambda: _hashed(TENSORS[:-9]),
    "cut in the header": lambda: _hashed(TENSORS[:40]),
    "a header of terabytes": lambda: _hashed((1 << 42).to_bytes(8, "little") + TENSORS[8:]),
    "a header of the whole file": lambda: _hashed((1 << 24).to_bytes(8, "little") + b"{" * (1 << 20)),
    "a pickle": lambda: _hashed(pickle.dumps({"parameters": [0.0]})),
    "another hash": lambda: (TENSORS, manifest(sha256="0" * 64)),
    "hash of nothing": lambda: (TENSORS, manifest(sha256="")),
    "NaN": lambda: _with_value("parameters", float("nan")),
    "infinite mean": lambda: _with_value("mean", float("inf")),
    "negative variance": lambda: _with_value("variance", -1.0),
    "scores that overflow": lambda: changed(_huge_scores),
    "too few parameters": lambda: _replaced("parameters", torch.zeros(7)),
    "parameters in two dimensions": lambda: _replaced("parameters", torch.zeros(5, 867)),
    "half precision": lambda: _replaced("mean", torch.zeros(17).half()),
    "one tensor more": lambda: _replaced("more", torch.zeros(3)),
    "one tensor less": lambda: changed(lambda tensors: tensors.pop("mean")),
    "a wider network": lambda: _config(width=33),
    "a network without end": lambda: _config(width=10**30),
    "a layer for each atom": lambda: _config(kind="mlp", depth=10**12),
    "a text for a number": lambda: _config(gamma="0.99"),
    "an unknown hyper-parameter": lambda: _config(temperature=1.0),
    "an unknown network": lambda: _config(kind="oracle"),
    "an unknown entry": lambda: (TENSORS, manifest(command="rm -rf /")),
    "no config": lambda: (TENSORS, {k: v for k, v in manifest().items() if k != "config"}),
    "no hash": lambda: (TENSORS, {k: v for k, v in manifest().items() if k != "sha256"}),
    "no format": lambda: (TENSORS, {k: v for k, v in manifest().items() if k != "format"}),
    "format of tomorrow": lambda: (TENSORS, manifest(format=2)),
    "a list for the regime": lambda: (TENSORS, manifest(regime=[])),
    "a regime that means nothing": lambda: (TENSORS, manifest(regime={"interval": 100})),
}


def checkpoint(**changes: Any) -> bytes:
    """A ckpt.pt as the reference's trainer writes it, with entries changed."""
    state: dict[str, Any] = {"mean": torch.linspace(-0.1, 0.1, 4172), "best_member": torch.zeros(4172)}
    for which in ("output", "online_new_output"):
        for part, value in {"mean": 0.0, "var": 1.0, "num": 3.0}.items():
            state[f"{BUFFERS}{which}_{part}"] = torch.full((1, 1, 1, 17), value)
    return torched({"evolution_state": state | changes, "iter_num": 12, "best_val_loss": 0.25})


def torched(content: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Hostile:
    """Runs a command when it is unpickled by somebody careless."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _bomb() -> bytes:
    """A zip of 1 MB that unpacks to 1 GB."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data.pkl", "w") as member,
    ):
        for _ in range(1024):
            member.write(bytes(1 << 20))
    return file.getvalue()


def spoilt_checkpoints(command: str) -> dict[str, bytes]:
    """Reference checkpoints that are no good; some would run `command`."""
    return {
        "no zip": b"not a checkpoint",
        "empty": b"",
        "cut short": checkpoint()[:-500],
        "a plain pickle": pickle.dumps(Hostile(command)),
        "a pickle that runs code": torched({"evolution_state": {}, "iter_num": Hostile(command)}),
        "code for the mean": checkpoint(mean=Hostile(command)),
        "a zip bomb": _bomb(),
        "NaN": checkpoint(mean=torch.full((4172,), float("nan"))),
        "an unknown size": checkpoint(mean=torch.zeros(99)),
        "another normaliser": checkpoint(**{f"{BUFFERS}output_mean": torch.zeros(3)}),
        "no evolution": torched({"model": {}}),
    }
