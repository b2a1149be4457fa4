"""The tokenizer that training makes, and an untrained model over it."""

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.training.shapes import WINDOW
from namm_runtime.training.tokenizer import train_tokenizer
from tests.support.untrained import build


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(seed=0, max_length=WINDOW)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build(tokenizer)
