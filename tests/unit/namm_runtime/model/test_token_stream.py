"""Streamed tokens equal tokens made at once, wherever the stream is resumed, and bytes are counted right."""

import random
import sysconfig
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.errors import Refusal
from namm_runtime.model import token_stream
from namm_runtime.model.token_stream import Place, TokenStream, counted


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


def at_once(tokenizer, content: str) -> list[int]:
    return tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"]


def streamed(path: Path, tokenizer) -> list[int]:
    return [token for piece in TokenStream(path, tokenizer) for token in piece.ids]


def corpus() -> dict[str, str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    rng = random.Random(0)
    return {
        "source": "".join((library / name).read_text() for name in ("argparse.py", "typing.py", "turtle.py")),
        "windows line ends": ("Total due:\r\n\r\n  4,211.90 EUR\r\n" * 6000),
        "spaces": "a" + " " * 50_000 + "b" + "\n" * 50_000 + "c",
        "one long word": "x" * 120_000,
        "many scripts": "".join(
            rng.choice("日本語 ünïcödé кириллица 🙂👩‍👩‍👧 עברית\n") for _ in range(90_000)
        ),
        "noise": "".join(chr(rng.randrange(32, 0x2000)) for _ in range(80_000)),
        "short": "Invoice 4821 total: 9310.",
    }


@pytest.mark.parametrize("name", corpus())
def test_stream_equals_one_shot(tmp_path, tokenizer, name):
    content = corpus()[name]
    path = tmp_path / "document.txt"
    path.write_text(content, newline="")
    assert streamed(path, tokenizer) == at_once(tokenizer, content)
    assert list(counted(path, tokenizer))[-1] == len(at_once(tokenizer, content))


@pytest.mark.parametrize("name", ["source", "many scripts"])
def test_resuming_anywhere_gives_the_rest(tmp_path, tokenizer, name):
    path = tmp_path / "document.txt"
    path.write_text(corpus()[name], newline="")
    everything = streamed(path, tokenizer)
    rng, seen = random.Random(1), 0
    for piece in TokenStream(path, tokenizer):
        taken = rng.randrange(len(piece.ids))
        place = Place(piece.byte, piece.first + taken)
        rest = [token for later in TokenStream(path, tokenizer, place) for token in later.ids]
        assert rest == everything[seen + taken :]
        seen += len(piece.ids)


def test_byte_offsets_point_into_the_file(tmp_path, tokenizer):
    content = corpus()["many scripts"]
    path = tmp_path / "document.txt"
    path.write_text(content)
    raw = path.read_bytes()
    for piece in TokenStream(path, tokenizer):
        for token in range(0, len(piece.ids), 997):
            at = piece.byte_offset(token)
            character = piece.text[piece.starts[token]]
            assert raw[at:].startswith(character.encode())


@pytest.mark.parametrize(
    "content", [b"ok so far \xff\xfe then not", b"text\0with nul", b"\x89PNG\r\n\x1a\n\0\0"]
)
def test_what_is_not_text_is_refused(tmp_path, tokenizer, content):
    path = tmp_path / "document.txt"
    path.write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        list(counted(path, tokenizer))
    assert refusal.value.code == "document_not_text"


@pytest.mark.parametrize("character", ["0", "-", "é"])
def test_text_without_a_break_is_cut_and_nothing_is_lost(tmp_path, tokenizer, character):
    path = tmp_path / "document.txt"
    content = "x" + character * 600_000 + " end"
    path.write_text(content)
    pieces = list(TokenStream(path, tokenizer))
    tokens = [token for piece in pieces for token in piece.ids]
    assert tokenizer.decode(tokens) == content
    assert max(len(piece.text) for piece in pieces) <= 4 * token_stream.LONGEST
    later = pieces[len(pieces) // 2]
    place = Place(later.byte, later.first)
    rest = [token for piece in TokenStream(path, tokenizer, place) for token in piece.ids]
    assert content.endswith(tokenizer.decode(rest))
    assert len(tokenizer.decode(rest)) > len(content) // 4


def test_control_tokens_in_a_document_are_only_text(tmp_path, tokenizer):
    path = tmp_path / "document.txt"
    path.write_text(f"before {tokenizer.eos_token} after")
    tokens = [token for piece in TokenStream(path, tokenizer) for token in piece.ids]
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens) == f"before {tokenizer.eos_token} after"


def test_memory_does_not_hold_the_document(tmp_path, tokenizer):
    path = tmp_path / "document.txt"
    path.write_text("Some ordinary words, again and again.\n" * 20_000)
    longest = max(len(piece.text) for piece in TokenStream(path, tokenizer))
    assert longest <= token_stream.WINDOW + 8 * token_stream.OVERLAP


def test_slow_tokenizers_are_refused(tmp_path):
    with pytest.raises(Refusal) as refusal:
        TokenStream(tmp_path / "x", object())
    assert refusal.value.code == "tokenizer_unsupported"
