"""A document is as long as was asked for, counted as the engine counts."""

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.tasks.sized import document_of_tokens


@pytest.mark.parametrize("filler", ["stdlib", "business"])
@pytest.mark.parametrize("kind", ["transformers", "tokenizers"])
def test_at_least_the_wanted_tokens_and_not_many_more(kind, filler):
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR) if kind == "transformers" else plain
    document = document_of_tokens(tokenizer, 40_000, 10, seed=4, filler=filler)
    tokens = len(plain.encode(document.text, add_special_tokens=False).ids)
    assert 40_000 <= tokens <= 46_000
    assert len(document.facts) == 10
