"""Every policy with every grouping of heads, batch, precision and chunk size: bounded, in order, the same."""

from functools import cache
from itertools import product

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.attention.rope import Rotation
from namm_runtime.engine.memory import Memory
from namm_runtime.model.loading import LoadedModel
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from namm_runtime.scorer.regime import Regime

BUDGET, INTERVAL, TOKENS = 48, 64, 330
NAMES = ["streaming", "h2o", "snapkv", "l2", "keydiff", "keydiff-token", "namm", "namm-key", "parity", "full"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHUNKS = [TOKENS, 64, 16, 50]


@pytest.fixture(scope="module")
def models() -> dict[tuple[int, torch.dtype], LoadedModel]:
    """By query heads a KV head and precision; loud queries, so that attention is not uniform."""
    found = {}
    for group, dtype in product((1, 2, 4), DTYPES.values()):
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
    config = ScorerConfig(key_input=name == "namm-key", key_deviation=0.1)
    parameters = torch.randn(config.network.size, generator=torch.Generator().manual_seed(0)) * 0.2
    regime = Regime("parity", None, INTERVAL, "absolute")
    scorer = Scorer("r", "1", config, parameters, torch.full((17,), 0.02), torch.full((17,), 4e-4), regime)
    if name == "parity":
        memory = Memory(model, Namm(scorer, mode="parity"), None, INTERVAL, by_slot=False)
    else:
        memory = Memory(model, policies.make(name, BUDGET, scorer), BUDGET, INTERVAL, by_slot=name != "full")
    for piece in ids.split(chunk, dim=1):
        logits = memory.feed(piece)
    assert torch.isfinite(logits).all()
    return memory


def kept(memory: Memory, row: int = 0) -> list[list[int]]:
    """Places in the text of one row's tokens, by layer and head."""
    return [
        layer.positions[row, head, : layer.used][~layer.unused()[row, head]].tolist()
        for layer in memory.cache.layers
        for head in range(layer.keys.shape[1])
    ]


@pytest.fixture(scope="module")
def readings(models):
    """Each reading once: name, group, batch, dtype and chunk → memory."""

    @cache
    def reading(name: str, group: int, batch: int, dtype: torch.dtype, chunk: int) -> Memory:
        ids = torch.randint(0, 64, (3, TOKENS), generator=torch.Generator().manual_seed(3))
        return read(name, models[group, dtype], ids[:batch], chunk)

    return reading


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_matrix(readings, name, group, batch, dtype, chunk):
    memory = readings(name, group, batch, DTYPES[dtype], chunk)
    for layer in memory.cache.layers:
        layer.check_integrity()
        assert layer.keys.dtype == layer.values.dtype == DTYPES[dtype]
        assert layer.keys.shape[:2] == (batch, 4 // group)
        assert layer.clock == TOKENS
        if name == "full":
            assert layer.used == TOKENS
            continue
        assert layer.pending == TOKENS % INTERVAL
        longest = INTERVAL * 5 if name == "parity" else BUDGET
        assert 0 < int(layer.lengths.min()) <= int(layer.lengths.max()) <= longest
        if name == "parity":
            assert (layer.lengths == layer.lengths[:, :1]).all(), "one length for all heads of a document"
        elif name not in ("namm", "namm-key"):  # which have a threshold
            assert (layer.lengths == BUDGET).all()
    if dtype != "fp32":
        return  # in half precision another chunk or batch may round a borderline token to the other side
    whole = readings(name, group, batch, torch.float32, TOKENS)
    assert all(kept(memory, row) == kept(whole, row) for row in range(batch))
    assert kept(memory) == kept(readings(name, group, 1, torch.float32, TOKENS)), "a row depends on the batch"


@pytest.mark.parametrize("name", ["h2o", "snapkv", "namm", "namm-key", "parity"])
def test_the_comparisons_above_can_fail(readings, name):
    """Rows differ, and so do the policies that watch attention from one that does not."""
    memory = readings(name, 2, 3, torch.float32, TOKENS)
    assert kept(memory, 0) != kept(memory, 1)
    assert kept(memory, 0) != kept(readings("streaming", 2, 3, torch.float32, TOKENS), 0)
