"""A scorer on disk: a safetensors file and a JSON manifest with everything needed to use it.

scorer.safetensors   parameters [P], mean [17], variance [17], all fp32
manifest.json        format, name, version, sha256 of the file, config, regime, serving, provenance
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from namm_runtime.attention.spectrogram import BINS, FRAME, HOP
from namm_runtime.errors import Refusal
from namm_runtime.scorer.bam import Bam
from namm_runtime.scorer.manifest import FORMAT, MANIFEST_FILE, TENSORS_FILE, checked_section, read_manifest
from namm_runtime.scorer.mlp import Mlp
from namm_runtime.scorer.normaliser import LEAST_DEVIATION
from namm_runtime.scorer.regime import Regime, Serving

MAX_BYTES = 16 << 20
PLACE_FLOATS = 6
BUNDLED = Path(__file__).parents[1] / "bundled" / "scorers"


@dataclass(frozen=True)
class ScorerConfig:
    """The scorer's hyper-parameters, needed to interpret its parameters. Defaults are the published ones."""

    gamma: float = 0.99
    width: int = 32
    recency_floats: int = 8
    recency_base: float = 50_000.0
    recency_clip: int | None = None  # tokens; larger ages are clipped to it
    threshold: float | None = 0.0  # tokens scored below it are dropped; None: only the budget limits them
    key_input: bool = False  # one more feature: cosine similarity of the key to the head's mean key
    key_mean: float = 0.0
    key_deviation: float = 1.0
    place_input: bool = False  # six more features: cosines of the layer's and the head's place in the model
    spectrum_zeroed: bool = False  # the spectrum's features are always zero, and attention is not observed
    kind: str = "bam"  # or "mlp", which scores each token independently
    multiply: bool = True  # bam: attention also scales the features
    bias: bool = True  # of the attention (bam) or of every layer (mlp)
    depth: int = 1  # mlp: number of linear layers
    residual: bool = True  # mlp: add the features to the first hidden layer
    frame: int = FRAME  # queries per spectrum; this and the next two allow no other value yet
    hop: int = HOP  # queries from one spectrum to the next
    window: str = "hann"  # periodic

    @property
    def features(self) -> int:
        return self.recency_floats + BINS + self.key_input + PLACE_FLOATS * self.place_input

    @property
    def bam(self) -> Bam:
        return Bam(self.features, self.width, self.multiply, self.bias)

    @property
    def network(self) -> Bam | Mlp:
        """The network that turns features into scores.

        Raises:
            ValueError: for an unknown kind, or shapes that the network does not allow.
        """
        if self.kind == "bam":
            return self.bam
        if self.kind == "mlp":
            return Mlp(self.features, self.width, self.depth, self.bias, self.residual)
        raise ValueError(f"unknown kind of scorer: '{self.kind}'")


@dataclass(frozen=True)
class Scorer:
    """A scorer ready for use.

    Attributes:
        parameters: [P] fp32, flat, in the order of the reference implementation.
        mean, variance: [17] fp32, normaliser of the spectrum.
        regime: the settings it was evolved in.
        serving: its default settings for serving; if empty, its regime.
        sha256: of the safetensors file; empty if it was never saved.
    """

    name: str
    version: str
    config: ScorerConfig
    parameters: Tensor
    mean: Tensor
    variance: Tensor
    regime: Regime = field(default_factory=Regime)
    provenance: dict[str, Any] = field(default_factory=dict)
    serving: Serving = field(default_factory=Serving)
    sha256: str = ""

    @property
    def deviation(self) -> Tensor:
        return self.variance.sqrt().clamp(min=LEAST_DEVIATION)

    @property
    def identity(self) -> str:
        """Hash of everything that determines a score: parameters, normaliser and hyper-parameters."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for tensor in (self.parameters, self.mean, self.variance):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, directory: Path) -> str:
        """Write both files. Returns the sha256 of the tensors."""
        tensors = {"parameters": self.parameters, "mean": self.mean, "variance": self.variance}
        payload = save_tensors({name: tensor.float().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(payload).hexdigest()
        manifest = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "sha256": digest,
            "config": asdict(self.config),
            "regime": asdict(self.regime),
            "serving": asdict(self.serving),
            "provenance": self.provenance,
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / TENSORS_FILE).write_bytes(payload)
        (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        return digest


@dataclass(frozen=True)
class ScorerRef:
    """A reference to a scorer, without its parameters."""

    name: str
    version: str
    sha256: str
    path: Path


def load(directory: Path) -> Scorer:
    """Read and verify a scorer.

    Raises:
        Refusal: `scorer_unreadable` (missing, truncated or oversized file, bad manifest),
            `scorer_hash_mismatch`, `scorer_wrong_shape`, `scorer_not_finite`.
    """
    manifest = read_manifest(directory)
    file = directory / TENSORS_FILE
    try:
        if file.stat().st_size > MAX_BYTES:
            raise Refusal("scorer_unreadable", f"{file.name} is larger than {MAX_BYTES} bytes")
        payload = file.read_bytes()
        tensors = load_tensors(payload)
    except (OSError, SafetensorError) as error:
        raise Refusal("scorer_unreadable", f"{file} cannot be read as safetensors: {error}") from None
    if hashlib.sha256(payload).hexdigest() != manifest["sha256"]:
        raise Refusal("scorer_hash_mismatch", f"{file} does not match the sha256 in its manifest")
    try:
        config = ScorerConfig(**checked_section(ScorerConfig, manifest["config"]))
        # A regime without a recency clip means the config's.
        evolved = {"recency_clip": config.recency_clip} | checked_section(Regime, manifest["regime"])
        regime = Regime(**evolved)
        serving = Serving(**checked_section(Serving, manifest.get("serving", {})))
        shapes = {"parameters": (config.network.size,), "mean": (BINS,), "variance": (BINS,)}
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            "scorer_unreadable", f"the manifest of {directory.name} is incomplete or invalid: {error}"
        ) from None
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise Refusal("scorer_wrong_shape", f"'{name}' must have the shape {shape} in {file}")
        if tensors[name].dtype != torch.float32:
            raise Refusal("scorer_wrong_shape", f"'{name}' must be fp32 in {file}")
        if not torch.isfinite(tensors[name]).all():
            raise Refusal("scorer_not_finite", f"'{name}' contains values that are not finite in {file}")
    if (tensors["variance"] < 0).any():
        raise Refusal("scorer_not_finite", f"'variance' contains negative values in {file}")
    return Scorer(
        name=manifest["name"],
        version=manifest["version"],
        config=config,
        parameters=tensors["parameters"],
        mean=tensors["mean"],
        variance=tensors["variance"],
        regime=regime,
        provenance=manifest.get("provenance", {}),
        serving=serving,
        sha256=manifest["sha256"],
    )


def given(scorer: Path | Scorer) -> Scorer:
    """The scorer, loaded from its directory if a path is given. Raises as `load`."""
    return load(scorer) if isinstance(scorer, Path) else scorer


def resolve(name: str) -> ScorerRef:
    """Find a bundled scorer by name.

    Raises:
        Refusal: `unknown_scorer`, listing the bundled ones.
    """
    wanted, _, version = name.partition("@")
    for ref in bundled():
        if ref.name == wanted and version in ("", ref.version):
            return ref
    known = ", ".join(f"{ref.name}@{ref.version}" for ref in bundled()) or "none"
    raise Refusal("unknown_scorer", f"unknown scorer '{name}'; bundled: {known}")


def bundled() -> list[ScorerRef]:
    """The scorers that ship with the package."""
    found = []
    for file in sorted(BUNDLED.glob(f"*/{MANIFEST_FILE}")):
        manifest = read_manifest(file.parent)
        found.append(ScorerRef(manifest["name"], manifest["version"], manifest["sha256"], file.parent))
    return found
