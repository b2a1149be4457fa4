"""Blocks of text that documents are made of, and facts planted between them."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from namm_runtime.model.encoding import encode
from namm_runtime.tasks.real.planted import Planted
from namm_runtime.tasks.real.sources import Kind, Shelf
from namm_runtime.tasks.real.wordings import Wordings
from namm_runtime.tasks.words import sample_number

_EARLIEST, _LATEST = 0.02, 0.96  # share of the document between which facts are planted
_MIXED_RUN = (6, 20)  # blocks of one kind in a mixed document
_SENTENCES = (2, 5)  # of a written paragraph
_LONG_PARAGRAPH = 400  # characters
_SENTENCE_END = re.compile(r"(?<=[a-z)][.!?])(\s+)(?=[A-Z])")


@dataclass(frozen=True)
class Block:
    """A paragraph, a part of one that ends with a sentence, or a block of code.

    Attributes:
        before: white space between it and the block before.
    """

    text: str
    kind: Kind
    before: str = "\n\n"

    def parts(self) -> "list[Block]":
        """A long paragraph's sentences, so that facts can stand between them; else the block itself."""
        if self.kind == "code" or len(self.text) < _LONG_PARAGRAPH:
            return [self]
        pieces = _SENTENCE_END.split(self.text)  # sentence, white space, sentence, …
        ahead = [self.before, *pieces[1::2]]
        return [Block(text, self.kind, before) for before, text in zip(ahead, pieces[::2], strict=True)]


def shelved(shelves: Sequence[Shelf], rng: random.Random) -> Iterator[Block]:
    """Blocks from shelves endlessly, those of several shelves in turns."""
    while True:
        for shelf in shelves:
            for _ in range(rng.randint(*_MIXED_RUN)):
                yield from Block(shelf.take(), shelf.kind).parts()


def written(words: Wordings, rng: random.Random) -> Iterator[Block]:
    """Paragraphs of a language's filler endlessly. Every sentence is used once before any is used again."""
    names, sentences = words.vocabulary.names, list(words.filler)
    while True:
        rng.shuffle(sentences)
        left = list(sentences)
        while left:
            before = "\n\n"
            for _ in range(min(len(left), rng.randint(*_SENTENCES))):
                number = sample_number(rng, words.split, 3)
                yield Block(left.pop().format(name=rng.choice(names), number=number), "prose", before)
                before = words.space


def enough(blocks: Iterator[Block], tokens: int, tokenizer: Any) -> list[Block]:
    """The next blocks that have at least a number of tokens together."""
    taken: list[Block] = []
    while tokens > 0:
        taken.append(next(blocks))
        tokens -= _size(taken[-1].before + taken[-1].text, tokenizer)
    return taken


def with_facts(
    blocks: list[Block], planted: list[Planted], room: int, tokenizer: Any, rng: random.Random, space: str
) -> str:
    """The blocks as text, with each fact's sentences in order at the ends of blocks at random depths.

    Args:
        room: tokens of the document, which the blocks may exceed.
        space: what separates two sentences.
    """
    ends = list(accumulate(_size(block.before + block.text, tokenizer) for block in blocks))
    extra = sum(_size(sentence, tokenizer) + 2 for fact in planted for sentence in fact.sentences)
    added: dict[int, list[str]] = {}
    for fact in planted:
        depths = sorted(rng.uniform(_EARLIEST, _LATEST) * (room - extra) for _ in fact.sentences)
        for depth, sentence in zip(depths, fact.sentences, strict=True):
            place = next(number for number, end in enumerate(ends) if end >= depth)
            added.setdefault(place, []).append(sentence)
    parts = [
        block.before + _extended(block, added.get(number, []), space) for number, block in enumerate(blocks)
    ]
    return "".join(parts).lstrip("\n")


def _extended(block: Block, sentences: list[str], space: str) -> str:
    """A block with sentences in order at its end: in its last paragraph, in one of their own, in comments."""
    text = block.text
    for sentence in sentences:
        last = text.rpartition("\n")[2]
        if block.kind == "code":
            text += f"\n{last[: len(last) - len(last.lstrip())]}# {sentence}"
        elif text.endswith((".", "。")) and not last.startswith((" ", ">>>")):
            text += f"{space}{sentence}"
        else:
            text += f"\n\n{sentence}"
    return text


def _size(text: str, tokenizer: Any) -> int:
    return len(encode(tokenizer, text)["input_ids"])
