"""Documents of exact length with questions about planted facts and about the text itself."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.model.prompts import frame_for
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.real.blocks import Block, enough, shelved, with_facts, written
from namm_runtime.tasks.real.cutting import cut
from namm_runtime.tasks.real.planted import HARD, Planted, plant
from namm_runtime.tasks.real.sources import Shelf, folder_sources, library_sources
from namm_runtime.tasks.real.standing import quotes, sentences_to_complete
from namm_runtime.tasks.real.wordings import Wordings, wordings
from namm_runtime.tasks.words import Split

Span = tuple[int, int]

CONTINUATION = 257  # tokens; the first is given, and the loss is measured on the others
_MIXTURE = ("prose", "code", "prose", "mixed", "prose")
_TRIES = 20


@dataclass(frozen=True)
class RealDocument:
    """A text and the questions about it.

    Attributes:
        tokens: number of its tokens and those that the chat template puts before it.
        following: the text that goes on after the document, `CONTINUATION` tokens of it.
        evidence: for each item, the parts of the text that its answer needs, as (begin, end) in characters.
    """

    text: str
    tokens: int
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


def real_documents(
    split: Split,
    tokens: int | Sequence[int],
    count: int,
    seed: int,
    tokenizer: Any,
    folder: Path | None = None,
    asked: Asked | None = None,
    language: str = "en",
) -> Iterator[RealDocument]:
    """Yield `count` documents of exactly `tokens` tokens, counting those that the chat template puts before.

    With `tokens` a multiple of the eviction interval, nothing waits for an eviction once a document is read.
    Given several numbers, there are `count` documents of each, and no text is used twice before all of it has
    been.

    The same arguments give the same documents on the same Python installation. Splits share no source file,
    no wording of a fact and no name.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        folder: take text from here; by default from the standard library and NumPy.
        asked: the questions; None for the defaults.
        language: of `LANGUAGES`. Text in other languages than English is composed of sentences that come with
            this package, and is for the test split only.

    Raises:
        Refusal: `bad_tasks` for a folder without files for the split, or `tokens` too small for the facts.
        KeyError: for a language without wordings for the split.
    """
    asked = asked or Asked()
    words = wordings(language, split)
    rng = random.Random(f"real:{language}:{split}:{seed}")
    blocks = _source(words, folder, rng)
    prefix = len(frame_for(tokenizer).prefix)
    lengths = (tokens,) if isinstance(tokens, int) else tokens
    for length, number in product(lengths, range(count)):
        room = length - prefix
        hard = tuple(HARD[(number * asked.hard + turn) % len(HARD)] for turn in range(asked.hard))
        for _ in range(_TRIES):
            planted = plant(rng, words, asked.facts, hard, asked.absent)
            taken = enough(blocks(number), room + 2 * CONTINUATION, tokenizer)
            document = _document(taken, planted, room, tokenizer, asked, rng, words.space)
            if document is not None:
                yield replace(document, tokens=length)
                break
        else:
            raise Refusal("bad_tasks", f"{length} tokens are too few for a document with its facts")


def _source(words: Wordings, folder: Path | None, rng: random.Random) -> Callable[[int], Iterator[Block]]:
    """A function from the number of a document to the blocks that it is made of."""
    if words.filler:
        sentences = written(words, rng)
        return lambda number: sentences
    sources = folder_sources(folder, words.split) if folder else library_sources(words.split)
    shelves = {kind: Shelf(sources, kind, rng) for kind in ("prose", "code")}
    filled = [kind for kind in shelves if shelves[kind]]

    def blocks(number: int) -> Iterator[Block]:
        wanted = _MIXTURE[number % len(_MIXTURE)]
        kinds = [kind for kind in filled if wanted in (kind, "mixed")] or filled
        return shelved([shelves[kind] for kind in kinds], rng)

    return blocks


def _document(
    blocks: list[Block],
    planted: list[Planted],
    room: int,
    tokenizer: Any,
    asked: Asked,
    rng: random.Random,
    space: str,
) -> RealDocument | None:
    """Plant the sentences, cut the text and choose questions about it; None if it does not work out."""
    text = with_facts(blocks, planted, room, tokenizer, rng, space)
    sentences = [sentence for fact in planted for sentence in fact.sentences]
    first = min((text.index(sentence) for sentence in sentences), default=len(text))
    found = cut(text, room, CONTINUATION, tokenizer, first)
    if found is None or any(found.text.count(sentence) != 1 for sentence in sentences):
        return None
    spans = {sentence: _span(found.text, sentence) for sentence in sentences}
    taken = list(spans.values())
    standing = sentences_to_complete(found.text, asked.text, rng, taken)
    standing += quotes(found.text, asked.quotes, rng, taken)
    items = [fact.item for fact in planted] + [entry.item for entry in standing]
    evidence = [tuple(spans[sentence] for sentence in fact.sentences) for fact in planted]
    evidence += [(entry.span,) for entry in standing]
    items = [replace(item, context=found.text) for item in items]
    return RealDocument(found.text, room, tuple(items), found.following, tuple(evidence))


def _span(text: str, sentence: str) -> Span:
    begin = text.index(sentence)
    return begin, begin + len(sentence)
