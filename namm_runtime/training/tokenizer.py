"""The bundled models' byte-level BPE tokenizer, trained on the training split only."""

import random
from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks.documents import filler_pieces
from namm_runtime.tasks.facts import RECORDS, sample_facts
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.filler import ordinary_files
from namm_runtime.tasks.phrases import task_words
from namm_runtime.tasks.words import NAMES, compose_name

BOS, EOS = "<|begin|>", "<|end|>"
VOCAB_SIZE = 2048
# Digits are grouped in at most two, so that 100 tokens (and 100 with a leading space) spell every number. A
# word keeps its leading space; runs of punctuation and of white space are separate.
SPLIT_PATTERN = r" ?[0-9]{1,2}| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+"

_OFFICE_PIECES = 3000
_STORIES, _STATEMENTS = 20, 60  # per family
_FACTS = 12000
_NAME_REPEATS, _WORD_REPEATS = 400, 2000
_COMPOSED_NAMES = 30000


def train_tokenizer(seed: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train on statements, questions, office prose and half of the standard library; needs no network."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        # All 256 bytes are tokens, so that no text is unrepresentable.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(seed), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def word_twins(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """Token ids (with, without a leading space) of every word that is a single token in both forms."""
    ids = tokenizer.get_vocab()
    spaced = (token for token in ids if token.startswith("Ġ") and token[1:].isalpha() and len(token) > 2)
    return sorted((ids[token], ids[token[1:]]) for token in spaced if token[1:] in ids)


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer:{seed}")
    # All two-digit groups, with and without a space, often enough to become tokens.
    yield from (f"{space}{group:02d}" for group in range(100) for space in ("", " ") for _ in range(600))
    # Names would otherwise be spelt letter by letter, and each letter would need a cache slot.
    yield from (f" {name}" for name in NAMES["train"] for _ in range(_NAME_REPEATS))
    yield from (
        f"{space}{word}" for word in task_words() for space in ("", " ") for _ in range(_NAME_REPEATS)
    )
    # A question may name a record in mid-sentence, after a space.
    yield from (f" {record}" for record in RECORDS for _ in range(_WORD_REPEATS))
    yield from (f" {compose_name(rng)}" for _ in range(_COMPOSED_NAMES))
    yield from (fact.sentence for fact in sample_facts(_FACTS, rng, "train"))
    yield from _stories(rng)
    for kind in ("business", "contract", "invoice", "minutes"):
        yield from islice(filler_pieces(kind, rng, "train"), _OFFICE_PIECES)
    yield from (path.read_text(encoding="utf-8") for path in ordinary_files("train"))


def _stories(rng: random.Random) -> Iterator[str]:
    for family in FAMILIES.values():
        for _ in range(_STORIES):
            story = family.write(rng, "train", _STATEMENTS)
            for statement in (*story.header, *story.body):
                yield "".join(text for _, text in statement)
            yield from (question.prompt + question.completion for question in story.questions)
