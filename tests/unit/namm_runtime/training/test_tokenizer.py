"""The tokenizer spells everything, and task words in few tokens."""

import random
from itertools import chain

from transformers import PreTrainedTokenizerFast

from namm_runtime.tasks import make_document, sample_facts
from namm_runtime.tasks.suite import encoder
from namm_runtime.training.tokenizer import VOCAB_SIZE


def test_tokenizer_spells_every_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= VOCAB_SIZE
    text = "".join(map(chr, range(1, 0x250))) + "日本\u2028\U0001f600\r\n\t  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_come_in_pairs_and_task_words_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = tokenizer.tokenize("48213 7", add_special_tokens=False)
    assert pieces == ["48", "21", "3", "Ġ7"]
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in ("latest", "total", "final", "room"))


def test_pieces_apart_have_the_tokens_of_the_pieces_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(tokenizer)
    document = make_document(20_000, 20, seed=1, split="test", filler="mixed")
    for planted in document.facts:
        fact, end = planted.fact, planted.offset + len(planted.fact.sentence)
        parts = (document.text[: planted.offset], fact.prompt, fact.completion, document.text[end:])
        assert list(chain.from_iterable(encode(parts))) == encode([document.text])[0]


def test_ordinary_text_compresses(tokenizer: PreTrainedTokenizerFast) -> None:
    text = make_document(200_000, 0, seed=1, split="test", filler="stdlib").text
    assert len(text) / len(encoder(tokenizer)([text])[0]) >= 2.7


def test_facts_are_short_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = sample_facts(300, random.Random(1), "test")
    lengths = [len(ids) for ids in encoder(tokenizer)([fact.sentence for fact in facts])]
    assert sum(lengths) / len(lengths) < 11
