"""Classify tokens into kinds: by Pygments in source code, by spelling in prose."""

import re
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_for_filename
from pygments.token import Comment, Keyword, Literal, Name, Number, Operator, Punctuation, String
from pygments.util import ClassNotFound

from namm_runtime.memory_map.retention import TokenisedDocument

TOKEN_KINDS = ("whitespace", "comments", "punctuation", "function words", "names", "numbers", "other words")
_WHITESPACE, _COMMENT, _PUNCTUATION, _FUNCTION, _NAME, _NUMBER, _OTHER = range(len(TOKEN_KINDS))

PROSE = (
    "Prose, by spelling: a word with a digit is a number; a word of a list of English articles, pronouns, "
    "prepositions, conjunctions and auxiliaries is a function word; a capitalised word that does not begin a "
    "sentence or a line is a name. There are no comments in prose."
)
CODE = (
    "Source code, by Pygments' {name} lexer: comments and doc strings are comments, keywords are function "
    "words, identifiers are names, operators are punctuation, other strings are other words."
)
TOKEN = " A token is of the kind of its first character that is not whitespace."

# Markup is prose to a reader.
_PROSE_LEXERS = {"Text only", "Markdown", "reStructuredText", "Text output"}
_WORD = re.compile(r"(?P<word>\w+(?:['’]\w+)*)|(?P<sign>[^\w\s]|_)")
_FUNCTION_WORDS = frozenset(
    files("namm_runtime.memory_map").joinpath("function_words.txt").read_text().split()
)


def classify_tokens(document: TokenisedDocument, filename: str) -> tuple[NDArray[np.int64], str]:
    """Index into TOKEN_KINDS of every token [T], and a sentence that says how they were determined."""
    lexer = _lexer(filename)
    runs = _prose(document.text) if lexer is None else _code(document.text, lexer)
    characters = np.full(len(document.text) + 1, _WHITESPACE, dtype=np.int64)
    for begin, end, kind in runs:
        characters[begin:end] = kind
    visible = np.fromiter((not c.isspace() for c in document.text), dtype=bool, count=len(document.text))
    places = np.flatnonzero(visible)
    # The first visible character at or after each token's start; if it is past the end, it is all whitespace.
    starts = document.starts[:-1]
    # Tokens that share a character end where the next character's token begins.
    ends = document.starts[np.searchsorted(document.starts, starts, side="right").clip(max=document.tokens)]
    index = np.searchsorted(places, starts)
    first = np.append(places, len(document.text))[index]
    return np.where(first < ends, characters[first], _WHITESPACE), _explained(lexer)


def _explained(lexer: Lexer | None) -> str:
    return (PROSE if lexer is None else CODE.format(name=lexer.name)) + TOKEN


def _lexer(filename: str) -> Lexer | None:
    try:
        lexer = get_lexer_for_filename(filename)
    except ClassNotFound:
        return None
    return None if lexer.name in _PROSE_LEXERS else lexer


def _code(text: str, lexer: Lexer) -> Iterator[tuple[int, int, int]]:
    table = (
        (Comment, _COMMENT),
        (String.Doc, _COMMENT),
        (Number, _NUMBER),
        (Literal, _OTHER),
        (Operator.Word, _FUNCTION),
        (Keyword, _FUNCTION),
        (Operator, _PUNCTUATION),
        (Punctuation, _PUNCTUATION),
        (Name, _NAME),
    )
    for begin, kind, value in lexer.get_tokens_unprocessed(text):
        found = next((ours for theirs, ours in table if kind in theirs), _OTHER)
        yield begin, begin + len(value), found


def _prose(text: str) -> Iterator[tuple[int, int, int]]:
    opening = True  # of a sentence or a line
    end = 0
    for match in _WORD.finditer(text):
        opening = opening or "\n" in text[end : match.start()]
        end = match.end()
        word = match["word"]
        if word is None:
            opening = opening or match["sign"] in ".!?:"
            yield match.start(), end, _PUNCTUATION
            continue
        if any(character.isdigit() for character in word):
            kind = _NUMBER
        elif word.lower().replace("’", "'") in _FUNCTION_WORDS:
            kind = _FUNCTION
        elif word[0].isupper() and not opening:
            kind = _NAME
        else:
            kind = _OTHER
        opening = False
        yield match.start(), end, kind
