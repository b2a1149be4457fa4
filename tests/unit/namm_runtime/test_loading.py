"""Which models load, and that they compute what transformers computes."""

import copy

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

from namm_runtime import policies
from namm_runtime.errors import Refusal
from namm_runtime.loading import load_model
from namm_runtime.memory import Memory
from namm_runtime.prompts import frame_for
from tests.tiny import byte_tokenizer

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
        LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}),
    ],
    ids=["gpt2", "mistral with a window", "qwen2 with a window", "dynamic ntk"],
)
def test_models_that_would_answer_wrongly_are_refused(tmp_path, config):
    _, folder = saved(config, tmp_path)
    with pytest.raises(Refusal) as refusal:
        load_model(folder)
    assert refusal.value.code in {"model_unsupported", "rope_unsupported"}


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(Refusal) as refusal:
        load_model(tmp_path / "nowhere")
    assert refusal.value.code == "model_not_found"


def test_a_chat_template_goes_around_document_and_question():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>", "<|assistant|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    frame = frame_for(tokenizer)
    asked = frame.prompt_ids(tokenizer, "why? <|end|>")
    special = tokenizer.convert_tokens_to_ids
    assert frame.prefix == (special("<|user|>"),)
    assert asked[-2:] == [special("<|end|>"), special("<|assistant|>")]
    assert asked.count(special("<|end|>")) == 1, "a control token spelt in a question must stay text"
    assert tokenizer.decode(asked) == "\n\nwhy? <|end|><|end|><|assistant|>"
