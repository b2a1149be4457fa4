"""A scorer on disk: a safetensors file and a JSON manifest that says everything needed to use it.

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
    """Hyper-parameters that the numbers mean nothing without. Defaults are the published ones."""

    gamma: float = 0.99
    width: int = 32
    recency_floats: int = 8
    recency_base: float = 50_000.0
    recency_clip: int | None = None  # tokens; ages above it look alike
    threshold: float | None = 0.0  # scores below it are dropped; None leaves it to the budget
    key_input: bool = False  # one more feature: cosine of the key with the head's mean key
    key_mean: float = 0.0
    key_deviation: float = 1.0
    place_input: bool = False  # six more features: cosines of the layer's and the head's place in the model
    spectrum_zeroed: bool = False  # its features are always zero, and attention is not watched
    kind: str = "bam"  # or "mlp", which scores each token without looking at others
    multiply: bool = True  # bam: scale the features as well as adding to them
    bias: bool = True  # of the attention (bam) or of every layer (mlp)
    depth: int = 1  # mlp: linear layers
    residual: bool = True  # mlp: add the features to the first hidden layer
    frame: int = FRAME  # queries of one spectrum; this and the next two have no other value yet
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
        """What turns features into scores.

        Raises:
            ValueError: no such network.
        """
        if self.kind == "bam":
            return self.bam
        if self.kind == "mlp":
            return Mlp(self.features, self.width, self.depth, self.bias, self.residual)
        raise ValueError(f"no scorer is of the kind '{self.kind}'")


@dataclass(frozen=True)
class Scorer:
    """A scorer ready for use.

    Attributes:
        parameters: [P] fp32, flat in the reference order.
        mean, variance: [17] fp32, normaliser of the spectrum.
        regime: what it was evolved in.
        serving: what it runs in where a request does not say; empty, that is its regime.
        sha256: of the safetensors bytes; empty for one that was never saved.
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
        """Hash of everything that decides a score: numbers and hyper-parameters, saved or not."""
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
    """Which scorer, without its numbers."""

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
        raise Refusal("scorer_hash_mismatch", f"{file} is not the file its manifest was written for")
    try:
        config = ScorerConfig(**checked_section(ScorerConfig, manifest["config"]))
        # A manifest without the clip it was evolved with means the one it has.
        evolved = {"recency_clip": config.recency_clip} | checked_section(Regime, manifest["regime"])
        regime = Regime(**evolved)
        serving = Serving(**checked_section(Serving, manifest.get("serving", {})))
        shapes = {"parameters": (config.network.size,), "mean": (BINS,), "variance": (BINS,)}
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            "scorer_unreadable", f"the manifest of {directory.name} is incomplete or wrong: {error}"
        ) from None
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise Refusal("scorer_wrong_shape", f"'{name}' should have the shape {shape} in {file}")
        if tensors[name].dtype != torch.float32:
            raise Refusal("scorer_wrong_shape", f"'{name}' should be fp32 in {file}")
        if not torch.isfinite(tensors[name]).all():
            raise Refusal("scorer_not_finite", f"'{name}' holds values that are not finite in {file}")
    if (tensors["variance"] < 0).any():
        raise Refusal("scorer_not_finite", f"'variance' holds negative values in {file}")
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
    """The scorer itself, read from its directory unless it is there already. Raises as `load`."""
    return load(scorer) if isinstance(scorer, Path) else scorer


def resolve(name: str) -> ScorerRef:
    """Find a bundled scorer by name.

    Raises:
        Refusal: `unknown_scorer`, naming the ones there are.
    """
    wanted, _, version = name.partition("@")
    for ref in bundled():
        if ref.name == wanted and version in ("", ref.version):
            return ref
    known = ", ".join(f"{ref.name}@{ref.version}" for ref in bundled()) or "none"
    raise Refusal("unknown_scorer", f"there is no scorer '{name}'; bundled: {known}")


def bundled() -> list[ScorerRef]:
    """The scorers that come with the package."""
    found = []
    for file in sorted(BUNDLED.glob(f"*/{MANIFEST_FILE}")):
        manifest = read_manifest(file.parent)
        found.append(ScorerRef(manifest["name"], manifest["version"], manifest["sha256"], file.parent))
    return found
