"""The committed model is whole, small, and does what its card says."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.bundled.evaluate import evaluate
from namm_runtime.tasks import make_document


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def test_the_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in MODEL_DIR.iterdir()) < 4_200_000


def test_the_card_shows_the_recorded_figures() -> None:
    card = (MODEL_DIR / "README.md").read_text()
    record = json.loads((MODEL_DIR / "training.json").read_text())
    for row in record["evaluation"]:
        rate = row["right"] / row["questions"]
        assert f"| {row['filler']} | {row['tokens']:,} | {rate:.3f} | {row['questions']} |" in card


def test_it_answers_held_out_questions(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    for row in evaluate(model, tokenizer, lengths=(512, 2048), questions=18, seed=1):
        assert row.right / row.questions >= 0.8, row


def test_generation_writes_the_answer_and_stops(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    document = make_document(1500, 4, seed=7, split="test", filler="business")
    right = 0
    for planted in document.facts:
        ids = tokenizer(document.text + planted.fact.prompt, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        written = model.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
        assert written[-1] in model.generation_config.eos_token_id
        right += tokenizer.decode(written, skip_special_tokens=True).strip() == f"{planted.fact.answer}."
    assert right >= 3
