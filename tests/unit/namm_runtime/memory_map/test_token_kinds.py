"""Kinds of tokens in prose and in source code."""

from pathlib import Path

from namm_runtime.memory_map.retention import TokenisedDocument
from namm_runtime.memory_map.token_kinds import TOKEN_KINDS, classify_tokens
from namm_runtime.model.loading import LoadedModel


def kind_of(text: str, name: str, model: LoadedModel, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / name
    path.write_text(text)
    document = TokenisedDocument.read(path, model.tokenizer)
    of_tokens, _ = classify_tokens(document, name)
    found: dict[str, str] = dict.fromkeys(TOKEN_KINDS, "")
    for start, kind in dict(zip(document.starts.tolist(), of_tokens.tolist(), strict=False)).items():
        found[TOKEN_KINDS[kind]] += text[start]
    return found


def test_kinds_in_prose(model, tmp_path):
    found = kind_of("The invoice of Ada, 12.5 kg.\nTotal isn’t B2! É", "a.txt", model, tmp_path)
    assert found["function words"] == "Theof"
    assert found["names"] == "Ada"
    assert found["numbers"] == "125B2"
    assert found["punctuation"] == ",..!"
    assert found["other words"] == "invoicekgTotalisn’tÉ"
    assert found["whitespace"] == "     \n   "
    assert found["comments"] == ""


def test_kinds_in_code(model, tmp_path):
    found = kind_of('def area(r):  # of a disc\n    return 3.14 * "x" * r\n', "a.py", model, tmp_path)
    assert found["comments"] == "#ofadisc"
    assert found["function words"] == "defreturn"
    assert found["names"] == "arearr"
    assert found["numbers"] == "3.14"
    assert found["punctuation"] == "():**"
    assert found["other words"] == '"x"'
