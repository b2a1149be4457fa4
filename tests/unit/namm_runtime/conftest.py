"""Small random models: the arithmetic does not care what the weights mean."""

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from namm_runtime.attention.rope import Rotation
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig
from tests.support.tiny import byte_tokenizer

VOCABULARY = 300


@pytest.fixture(scope="session")
def plain() -> LlamaForCausalLM:
    """A random Llama with grouped heads, as transformers runs it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def model(plain: LlamaForCausalLM) -> LoadedModel:
    """The same weights over the bounded cache."""
    bounded = LlamaForCausalLM(copy.deepcopy(plain.config)).eval()
    bounded.load_state_dict(plain.state_dict())
    bounded.set_attn_implementation("bounded")
    return LoadedModel("tiny", "r1", bounded, byte_tokenizer(), Rotation.of(bounded), 4096)


@pytest.fixture(scope="session")
def make_scorer() -> Callable[..., Scorer]:
    def make(seed: int = 0, scale: float = 0.3, **config: object) -> Scorer:
        settings = ScorerConfig(**({"threshold": None} | config))  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        parameters = torch.randn(settings.bam.size, generator=generator) * scale
        return Scorer("random", "1", settings, parameters, torch.full((17,), 0.1), torch.full((17,), 0.04))

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """[1, 1280] random tokens."""
    return torch.randint(0, VOCABULARY, (1, 1280), generator=torch.Generator().manual_seed(2))
