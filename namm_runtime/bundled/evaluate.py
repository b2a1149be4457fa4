"""Exact-match recall with the whole cache: `python -m namm_runtime.bundled.evaluate DIR [--split test]`."""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.bundled.curriculum import encoder
from namm_runtime.tasks.documents import FillerKind
from namm_runtime.tasks.sequences import Role, make_sequence
from namm_runtime.tasks.words import Split

EVALUATION_LENGTHS = (512, 1024, 2048)
EVALUATION_FILLERS: tuple[FillerKind, ...] = ("business", "stdlib")
QUESTIONS = 120

_QUESTIONS_PER_SEQUENCE = 6


@dataclass(frozen=True, slots=True)
class Recall:
    """How many questions were answered exactly."""

    split: Split
    filler: FillerKind
    tokens: int  # length of a sequence, questions included
    right: int
    questions: int


def evaluate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    split: Split = "test",
    lengths: Sequence[int] = EVALUATION_LENGTHS,
    questions: int = QUESTIONS,
    seed: int = 0,
) -> list[Recall]:
    """Ask at least `questions` questions for each filler and length.

    An answer counts only when each of its tokens and its full stop is the model's first choice given the
    tokens before it, which is when greedy decoding writes exactly that answer.
    """
    rows = []
    for filler in EVALUATION_FILLERS:
        for length in lengths:
            rng = random.Random(f"evaluation:{seed}:{split}:{filler}:{length}")
            right = asked = 0
            while asked < questions:
                row = _one_sequence(model, tokenizer, split, filler, length, rng)
                right += sum(row)
                asked += len(row)
            rows.append(Recall(split, filler, length, right, asked))
    return rows


@torch.no_grad()
def _one_sequence(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    split: Split,
    filler: FillerKind,
    length: int,
    rng: random.Random,
) -> list[bool]:
    sequence = make_sequence(
        encoder(tokenizer),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        length,
        max(_QUESTIONS_PER_SEQUENCE, length // 64),
        _QUESTIONS_PER_SEQUENCE,
        rng,
        split,
        filler,
    )
    ids = torch.tensor([sequence.ids])
    guesses = model(ids, use_cache=False).logits[0].argmax(-1).tolist()  # [L]
    results = []
    correct = True
    for position in range(sequence.question_start, length):
        if sequence.roles[position] is Role.ANSWER:
            correct = correct and guesses[position - 1] == sequence.ids[position]
        elif sequence.roles[position] is Role.STOP:
            results.append(correct)
            correct = True
    return results


def main() -> None:
    """Print one JSON line for each filler and length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    for row in evaluate(
        model, tokenizer, arguments.split, questions=arguments.questions, seed=arguments.seed
    ):
        sys.stdout.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    main()
