"""The committed model is whole, small, and does what its card says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.bundled import MODEL_DIR, MODELS
from namm_runtime.engine import Engine, Request
from namm_runtime.model.loading import load_model
from namm_runtime.tasks import make_document


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_small(name: str) -> None:
    assert sum(file.stat().st_size for file in MODELS[name].iterdir()) < 10_000_000


@pytest.mark.parametrize("characters", [1500, 3500])
@pytest.mark.parametrize("name", MODELS)
def test_it_answers_held_out_questions(tmp_path: Path, name: str, characters: int) -> None:
    right = asked = 0
    for seed in range(3):
        document = make_document(characters, 6, seed=seed, split="test", filler="business")
        file = tmp_path / f"{seed}.txt"
        file.write_text(document.text)
        questions = tuple(planted.fact.question for planted in document.facts)
        run = Engine(load_model(name)).complete(Request(file, questions, "full", max_output_tokens=12))
        asked += len(questions)
        for answer, planted in zip(run.answers, document.facts, strict=True):
            right += answer.text.rstrip(".") == planted.fact.answer
    assert right / asked >= 0.8


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
