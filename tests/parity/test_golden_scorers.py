"""Networks of every kind in the directory, from flat parameters to scores."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from namm_runtime.scorer.bam import split_flat
from namm_runtime.scorer.checkpoint import ScorerConfig

PATTERN = "[bm][al][mp]_*.safetensors"


def network(meta: dict) -> tuple[ScorerConfig, dict[str, tuple[int, ...]]]:
    """The configuration that a file's layout and overrides describe, and the layout itself."""
    layout = {name: tuple(shape) for name, shape in meta["layout"]}
    if "attn.qkv.weight" in layout:
        bias = "attn.qkv.bias" in layout
        width, out = layout["attn.out.weight"]
        return ScorerConfig(width=width, multiply=out == 50, bias=bias), layout
    config = ScorerConfig(
        kind="mlp",
        width=layout["l0.weight"][1] if "l1.weight" in layout else 25,
        depth=sum(name.endswith("weight") for name in layout),
        bias="l0.bias" in layout,
        residual="residual_first=false" not in meta["overrides"],
    )
    return config, layout


def test_scores(golden_file, compare):
    """Tokens on the left that a padding mask hides are left out: the runtime has no padding.

    Older tokens never influence newer ones, so the others are unaffected, and selection in the reference
    overwrites the scores of padding.
    """
    golden = load_file(golden_file)
    with safe_open(golden_file, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    config, layout = network(meta)
    assert config.network.shapes == layout
    assert config.network.size == meta["param_count"]
    for name, part in split_flat(golden["params"], config.network.shapes).items():
        compare(golden_file, "layout", part, golden[f"param.{name}"], tolerance=0)
    scores = config.network.score(golden["params"], golden["embeddings"])
    real = torch.ones_like(scores, dtype=torch.bool)
    if meta["mask_applied"]:
        real &= golden["attn_mask"].bool()[:, None]
    compare(golden_file, "scores", scores[real], golden["scores"][real], tolerance=1e-5, of_largest=True)
