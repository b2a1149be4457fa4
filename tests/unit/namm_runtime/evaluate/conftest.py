"""A tiny model and questions about a few documents."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny import save_tiny_llama

ANSWERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "\ufffd"]  # one of them is near


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def questions(tmp_path: Path) -> Callable[..., Path]:
    """A file of documents of 400 to 500 bytes with two questions each."""

    def write(name: str = "questions.jsonl", documents: int = 4, ask: str = "What?") -> Path:
        lines = [
            {
                "task": ("letters", "words")[number % 2],
                "context": f"Document {number}. " + "some words to read " * (22 + number),
                "input": f"{ask} {question}",
                "answers": ANSWERS,
                "metric": "edit",
            }
            for number in range(documents)
            for question in range(2)
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write
