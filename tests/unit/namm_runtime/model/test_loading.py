"""Which models load, and that they compute what transformers computes."""

import copy
import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from namm_runtime import policies
from namm_runtime.attention.rope import TYPES, ntk_base
from namm_runtime.engine.answering import ask
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import load_model
from tests.support.tiny import byte_tokenizer, save_tiny_llama

SMALL = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MODELS = {
    "llama": LlamaConfig(**SMALL),
    "llama3 scaling": LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "yarn scaling": LlamaConfig(**SMALL, rope_parameters=YARN),
    "linear scaling": LlamaConfig(**SMALL, rope_parameters=LINEAR),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
}


def saved(config: PreTrainedConfig, folder) -> tuple[object, str]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model, str(folder)


@pytest.mark.parametrize("name", MODELS)
def test_supported_models_equal_plain_transformers(tmp_path, ids, name):
    plain, folder = saved(MODELS[name], tmp_path)
    ids = ids[:, :700] % 256
    with torch.no_grad():
        expected = plain(ids).logits[:, -1]
    loaded = load_model(folder)
    memory = Memory(loaded, policies.make("streaming", 1024), 1024, 512, by_slot=False)
    assert torch.allclose(memory.feed(ids), expected, atol=5e-5)
    assert loaded.window == 2048


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=256, n_embd=32, n_layer=1, n_head=2),
        MistralConfig(**SMALL, sliding_window=128),
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=128, max_window_layers=1),
    ],
    ids=["gpt2", "mistral with a window", "qwen2 with a window"],
)
def test_models_that_would_answer_wrongly_are_refused(tmp_path, config):
    _, folder = saved(config, tmp_path)
    with pytest.raises(Refusal) as refusal:
        load_model(folder)
    assert refusal.value.code == "model_unsupported"


def test_static_ntk_is_the_default_type_with_a_larger_base(tmp_path):
    """transformers has no type of that name; the base alone says it."""
    stretched = {"rope_type": "default", "rope_theta": ntk_base(10_000.0, 16, factor=4, alpha=2)}
    plain, folder = saved(LlamaConfig(**SMALL, rope_parameters=stretched), tmp_path)
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(ids).logits[:, -1]
    memory = Memory(load_model(folder), policies.make("streaming", 512), 512, 512, by_slot=False)
    assert torch.allclose(memory.feed(ids), expected, atol=5e-5)


REFUSED_ROPES = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 512,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}


def test_every_rope_type_of_the_installed_transformers_is_decided():
    assert set(ROPE_INIT_FUNCTIONS) <= set(TYPES) | set(REFUSED_ROPES)


@pytest.mark.parametrize("name", REFUSED_ROPES)
def test_other_rope_types_are_refused(tmp_path, name):
    _, folder = saved(LlamaConfig(**SMALL, rope_parameters=REFUSED_ROPES[name]), tmp_path)
    with pytest.raises(Refusal) as refusal:
        load_model(folder)
    assert refusal.value.code == "rope_unsupported"
    assert name in refusal.value.message
    assert ("changes its frequencies" in refusal.value.message) == (name != "proportional")


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("by_slot", [True, False], ids=["by slot", "by place"])
def test_half_precision_models_run_and_the_scorer_stays_in_fp32(tmp_path, make_scorer, name, dtype, by_slot):
    _, folder = saved(MODELS[name], tmp_path)
    ids = torch.randint(0, 256, (1, 700), generator=torch.Generator().manual_seed(0))
    policy = policies.make("namm", 256, make_scorer(key_input=True))
    kept = []
    for precision in ("float32", dtype):
        loaded = load_model(folder, dtype=precision)
        memory = Memory(loaded, policy, 256, 128, by_slot=by_slot)
        logits = memory.feed(ids)
        kept.append((logits, memory.cache.layers[0]))
    (expected, _), (logits, layer) = kept
    assert loaded.model.dtype == layer.keys.dtype == layer.values.dtype == getattr(torch, dtype)
    assert torch.allclose(logits, expected, atol=0.02)
    assert {tensor.dtype for tensor in layer.state.values()} == {torch.float32}
    assert policy.features(layer).dtype == policy.scores(layer).dtype == torch.float32
    assert policy.scorer.parameters.dtype == torch.float32
    answered = ask(memory, "why?", 20)
    assert answered.tokens == 20


@pytest.mark.parametrize("asked", [{"max_output_tokens": 0}, {"temperature": -1.0}])
def test_asking_for_nothing_is_refused(model, ids, asked):
    memory = Memory(model, policies.make("streaming", 256), 256, 128)
    memory.feed(ids[:, :200])
    with pytest.raises(Refusal) as refusal:
        ask(memory, "why?", **asked)
    assert refusal.value.code == "bad_request"


def test_a_revision_is_of_weights_and_shape_not_of_the_folder(tmp_path):
    """Workers that keep one model in different places can go on with each other's snapshots."""
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    save_tiny_llama(first)
    shutil.copytree(first, second)
    shutil.copytree(first, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    revisions = [load_model(folder).revision for folder in (first, second, other)]
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(Refusal) as refusal:
        load_model(tmp_path / "nowhere")
    assert refusal.value.code == "model_not_found"
