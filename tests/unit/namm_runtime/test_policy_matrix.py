"""Every policy with every grouping of heads, batch, precision and chunking: bounded, in order, the same."""

from itertools import product

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.checkpoint import Scorer, ScorerConfig
from namm_runtime.loading import LoadedModel
from namm_runtime.memory import Memory
from namm_runtime.policies.namm import Namm
from namm_runtime.regime import Regime
from namm_runtime.rope import Rotation

BUDGET, INTERVAL, TOKENS = 48, 64, 330
NAMES = ["streaming", "h2o", "snapkv", "l2", "keydiff", "namm", "parity", "full"]


@pytest.fixture(scope="module")
def models() -> dict[tuple[int, torch.dtype], LoadedModel]:
    """By query heads a KV head and precision; loud queries, so that attention is not uniform."""
    found = {}
    for group, dtype in product((1, 2, 4), (torch.float32, torch.bfloat16)):
        torch.manual_seed(group)
        config = LlamaConfig(
            vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4 // group, intermediate_size=32, max_position_embeddings=1024,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.data.mul_(60)
        rotation = Rotation.of(model)
        model.to(dtype).set_attn_implementation("bounded")
        found[group, dtype] = LoadedModel("tiny", "r1", model, None, rotation, 1024)
    return found


def read(name: str, model: LoadedModel, ids: torch.Tensor, chunk: int) -> Memory:
    parameters = torch.randn(4172, generator=torch.Generator().manual_seed(0)) * 0.2
    regime = Regime("parity", None, INTERVAL, "absolute")
    scorer = Scorer(
        "r", "1", ScorerConfig(), parameters, torch.full((17,), 0.02), torch.full((17,), 4e-4), regime
    )
    if name == "parity":
        memory = Memory(model, Namm(scorer, mode="parity"), None, INTERVAL, by_slot=False)
    else:
        memory = Memory(model, policies.make(name, BUDGET, scorer), BUDGET, INTERVAL, by_slot=name != "full")
    for piece in ids.split(chunk, dim=1):
        logits = memory.feed(piece)
    assert torch.isfinite(logits).all()
    return memory


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_matrix(models, name, group, batch, dtype):
    model = models[group, dtype]
    ids = torch.randint(0, 64, (batch, TOKENS), generator=torch.Generator().manual_seed(3))
    whole = read(name, model, ids, TOKENS)
    for layer in whole.cache.layers:
        layer.check_integrity()
        assert layer.keys.dtype == dtype
        assert layer.clock == TOKENS
        if name == "full":
            assert layer.used == TOKENS
            continue
        assert layer.pending == TOKENS % INTERVAL
        longest = INTERVAL * 5 if name == "parity" else BUDGET
        assert 0 < int(layer.lengths.min()) <= int(layer.lengths.max()) <= longest
        if name == "parity":
            assert (layer.lengths == layer.lengths[:, :1]).all(), "one length for all heads of a document"
    if dtype != torch.float32:
        return  # in bf16 another chunking may round a borderline token to the other side
    for chunk in (16, 50):
        pieces = read(name, model, ids, chunk)
        for one, other in zip(whole.cache.layers, pieces.cache.layers, strict=True):
            assert torch.equal(one.lengths, other.lengths)
            used = ~one.unused()
            assert torch.equal(
                one.positions[:, :, : one.used][used], other.positions[:, :, : other.used][used]
            )
