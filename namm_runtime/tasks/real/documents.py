"""Documents of real text and exact length, with questions about planted facts and about the text itself."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.model.encoding import encode
from namm_runtime.model.prompts import frame_for
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.real.cutting import cut
from namm_runtime.tasks.real.planted import HARD, Planted, plant
from namm_runtime.tasks.real.sources import Kind, Shelf, folder_sources, library_sources
from namm_runtime.tasks.real.standing import quotes, sentences_to_complete
from namm_runtime.tasks.words import Split

Span = tuple[int, int]

CONTINUATION = 257  # tokens; the first is given, and the loss is measured on the others
_MIXTURE = ("prose", "code", "prose", "mixed", "prose")
_EARLIEST, _LATEST = 0.02, 0.96  # share of the document between which facts are planted
_MIXED_RUN = (6, 20)  # blocks of one kind in a mixed document
_LONG_PARAGRAPH = 400  # characters
_SENTENCE_END = re.compile(r"(?<=[a-z)][.!?])(\s+)(?=[A-Z])")
_TRIES = 20


@dataclass(frozen=True)
class RealDocument:
    """A text and the questions about it.

    Attributes:
        following: the text that goes on after the document, `CONTINUATION` tokens of it.
        evidence: for each item, the parts of the text that its answer needs, as (begin, end) in characters.
    """

    text: str
    items: tuple[Item, ...]
    following: str
    evidence: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class Asked:
    """How many questions of each sort a document has.

    Attributes:
        facts: answered by one planted sentence.
        hard: of the kinds in `HARD`, in turns.
        absent: that the document does not answer.
        text: sentences of the text itself to complete.
        quotes: passages to quote.
    """

    facts: int = 5
    hard: int = 2
    absent: int = 1
    text: int = 4
    quotes: int = 2


@dataclass(frozen=True)
class _Block:
    """A paragraph, a part of one that ends with a sentence, or a block of code.

    Attributes:
        before: white space between it and the block before.
    """

    text: str
    kind: Kind
    before: str = "\n\n"

    def parts(self) -> "list[_Block]":
        """A long paragraph's sentences, so that facts can stand between them; else the block itself."""
        if self.kind == "code" or len(self.text) < _LONG_PARAGRAPH:
            return [self]
        pieces = _SENTENCE_END.split(self.text)  # sentence, white space, sentence, …
        ahead = [self.before, *pieces[1::2]]
        return [_Block(text, self.kind, before) for before, text in zip(ahead, pieces[::2], strict=True)]


def real_documents(
    split: Split,
    tokens: int,
    count: int,
    seed: int,
    tokenizer: Any,
    folder: Path | None = None,
    asked: Asked | None = None,
) -> Iterator[RealDocument]:
    """Yield `count` documents of exactly `tokens` tokens, counting those that the chat template puts before.

    With `tokens` a multiple of the eviction interval, nothing waits for an eviction once a document is read.
    The same arguments give the same documents on the same Python installation. Splits share no source file,
    no wording of a fact and no name.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        folder: take text from here; by default from the standard library and NumPy.
        asked: the questions; None for the defaults.

    Raises:
        Refusal: `bad_tasks` for a folder without files for the split, or `tokens` too small for the facts.
    """
    asked = asked or Asked()
    sources = folder_sources(folder, split) if folder else library_sources(split)
    rng = random.Random(f"real:{split}:{tokens}:{seed}")
    shelves = {kind: Shelf(sources, kind, rng) for kind in ("prose", "code")}
    room = tokens - len(frame_for(tokenizer).prefix)
    for number in range(count):
        wanted = _MIXTURE[number % len(_MIXTURE)]
        kinds = [kind for kind in ("prose", "code") if wanted in (kind, "mixed") and shelves[kind]]
        kinds = kinds or [kind for kind in shelves if shelves[kind]]
        hard = tuple(HARD[(number * asked.hard + turn) % len(HARD)] for turn in range(asked.hard))
        for _ in range(_TRIES):
            planted = plant(rng, split, asked.facts, hard, asked.absent)
            blocks = _blocks([shelves[kind] for kind in kinds], room, tokenizer, rng)
            document = _document(blocks, planted, room, tokenizer, asked, rng)
            if document is not None:
                yield document
                break
        else:
            raise Refusal("bad_tasks", f"{tokens} tokens are too few for a document with its facts")


def _blocks(shelves: list[Shelf], room: int, tokenizer: Any, rng: random.Random) -> list[_Block]:
    """Enough blocks for a document and what follows it, those of several shelves in turns."""
    blocks: list[_Block] = []
    have, turn = 0, 0
    while have < room + 2 * CONTINUATION:
        shelf = shelves[turn % len(shelves)]
        turn += 1
        whole = [_Block(shelf.take(), shelf.kind) for _ in range(rng.randint(*_MIXED_RUN))]
        run = [part for block in whole for part in block.parts()]
        blocks += run
        have += sum(len(encode(tokenizer, block.text)["input_ids"]) for block in run)
    return blocks


def _document(
    blocks: list[_Block], planted: list[Planted], room: int, tokenizer: Any, asked: Asked, rng: random.Random
) -> RealDocument | None:
    """Plant the sentences, cut the text and choose questions about it; None if it does not work out."""
    text = _with_sentences(blocks, planted, room, tokenizer, rng)
    sentences = [sentence for fact in planted for sentence in fact.sentences]
    first = min((text.index(sentence) for sentence in sentences), default=len(text))
    found = cut(text, room, CONTINUATION, tokenizer, min(first, len(blocks[0].text)))
    if found is None or any(found.text.count(sentence) != 1 for sentence in sentences):
        return None
    spans = {sentence: _span(found.text, sentence) for sentence in sentences}
    taken = list(spans.values())
    standing = sentences_to_complete(found.text, asked.text, rng, taken)
    standing += quotes(found.text, asked.quotes, rng, taken)
    items = [fact.item for fact in planted if fact.item] + [entry.item for entry in standing]
    evidence = [tuple(spans[sentence] for sentence in fact.sentences) for fact in planted if fact.item]
    evidence += [(entry.span,) for entry in standing]
    items = [replace(item, context=found.text) for item in items]
    return RealDocument(found.text, tuple(items), found.following, tuple(evidence))


def _with_sentences(
    blocks: list[_Block], planted: list[Planted], room: int, tokenizer: Any, rng: random.Random
) -> str:
    """The blocks as text, with each sentence at the end of one, at random depths and each fact's in order."""
    sizes = [len(encode(tokenizer, block.before + block.text)["input_ids"]) for block in blocks]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    extra = sum(
        len(encode(tokenizer, sentence)["input_ids"]) + 2 for fact in planted for sentence in fact.sentences
    )
    added: dict[int, list[str]] = {}
    for fact in planted:
        depths = sorted(rng.uniform(_EARLIEST, _LATEST) * (room - extra) for _ in fact.sentences)
        for depth, sentence in zip(depths, fact.sentences, strict=True):
            place = next(number for number, end in enumerate(ends) if end >= depth)
            added.setdefault(place, []).append(sentence)
    parts = [block.before + _extended(block, added.get(number, [])) for number, block in enumerate(blocks)]
    return "".join(parts).lstrip("\n")


def _extended(block: _Block, sentences: list[str]) -> str:
    """A block with sentences in order at its end: in its last paragraph, in one of their own, in comments."""
    text = block.text
    for sentence in sentences:
        last = text.rpartition("\n")[2]
        if block.kind == "code":
            text += f"\n{last[: len(last) - len(last.lstrip())]}# {sentence}"
        elif text.endswith(".") and not last.startswith((" ", ">>>")):
            text += f" {sentence}"
        else:
            text += f"\n\n{sentence}"
    return text


def _span(text: str, sentence: str) -> Span:
    begin = text.index(sentence)
    return begin, begin + len(sentence)
