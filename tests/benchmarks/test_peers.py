"""Both sides are asked the same, and the table prints what they answered. kvpress itself is not installed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers import compare, kvpress_side, ours, records, table
from namm_runtime import policies
from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine.forced import predict_answer
from namm_runtime.engine.memory import Memory
from namm_runtime.evaluate.document import Document
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.tasks.documents import make_document
from namm_runtime.tasks.item import Forced, Item

MACHINE = {"processor": "P", "threads": 1, "torch": "2", "date": "2026-12-01"}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("bundled", dtype="float32")


@pytest.fixture(scope="module")
def document() -> Document:
    text = make_document(5000, 0, seed=1, filler="stdlib").text
    items = tuple(
        Item(
            task,
            text,
            f"What is the code of {name}?",
            ("42",),
            forced=Forced(f"The code of {name} is", " 42"),
        )
        for task, name in (("fact", "Lisbon"), ("order", "Graz"))
    )
    unknown = Item("text", text, "Go on.", ("x",), forced=Forced("a", " b"), asked=False)
    return Document(text, (*items, unknown), 4096, 8)


@pytest.fixture(scope="module")
def record(model: LoadedModel, document: Document) -> records.Record:
    return records.record(model, document, ours.budgets("256,128"))


def test_a_record_has_the_tokens_that_our_side_reads(model, document, record, tmp_path: Path) -> None:
    assert record["ids"] == model.encode(document.text)[0].tolist()
    assert [question["task"] for question in record["questions"]] == ["fact", "order"]
    for item, question in zip(records.questions(document), record["questions"], strict=True):
        prompt = model.frame.prompt_ids(model.tokenizer, item.input)
        assert (question["asked"] + question["opening"])[: len(prompt)] == prompt
        assert item.forced is not None
        assert model.tokenizer.decode(question["gold"]) == item.forced.gold
    records.write(tmp_path / "records.jsonl", [record, record])
    assert records.read(tmp_path / "records.jsonl") == [record, record]


def test_passages_divide_the_document(document, record) -> None:
    passages = record["passages"]
    assert "".join(passage["text"] for passage in passages) == document.text
    ends = [passage["end"] for passage in passages]
    assert [passage["begin"] for passage in passages] == [record["prefix"], *ends[:-1]]
    assert ends[-1] == len(record["ids"])
    sizes = [passage["end"] - passage["begin"] for passage in passages]
    assert all(records.SHORTEST <= size <= records.LONGEST for size in sizes[:-1])


def test_passages_are_taken_by_rank_and_read_in_the_order_of_the_text() -> None:
    passages = [{"begin": begin, "end": begin + 10} for begin in range(4, 64, 10)]
    assert kvpress_side.selected(passages, [4, 0, 2, 1, 3, 5], 25) == [(4, 14), (24, 29), (44, 54)]
    assert kvpress_side.selected(passages, [3], 100) == [(34, 44)]


def test_questions_take_turns_in_one_selection() -> None:
    assert kvpress_side.merged([[2, 0, 1, 3], [3, 2, 0, 1], [2, 1, 3, 0]]) == [2, 3, 0, 1]


@pytest.mark.parametrize(("kept", "tokens"), [(1008, 4096), (496, 4096), (880 + 161, 7168 + 161), (1, 3)])
def test_a_press_keeps_as_many_as_we_do(kept: int, tokens: int) -> None:
    ratio = 1 - kvpress_side.share_of(kept, tokens)
    assert int(tokens * (1 - ratio)) == kept  # as kvpress computes it


@pytest.fixture(scope="module")
def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


@torch.inference_mode()
def test_both_sides_predict_the_same_from_a_full_cache(model, document, record, plain) -> None:
    short = {**record, "ids": record["ids"][:600]}
    memory = Memory(model, policies.make("full", None), None, by_slot=False)
    memory.feed(torch.tensor([short["ids"]]))
    cache = kvpress_side.cache_of([])
    kvpress_side.forward(plain, cache, short["ids"], 0)
    for item, question in zip(records.questions(document), record["questions"], strict=True):
        assert item.forced is not None
        mine = predict_answer(memory, item.input, item.forced.lead, item.forced.gold)
        for _ in range(2):  # the first answer leaves the cache as it was
            theirs = kvpress_side.answer(plain, cache, 600, kvpress_side.full(question), question)
            assert (theirs["tokens"], theirs["right"]) == (mine.tokens, mine.right)
            assert theirs["nll"] == pytest.approx(mine.nll, rel=1e-3)


class Latest:
    """A press with kvpress' interface: keeps the last `kept`."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def compress(self, module, hidden, keys, values, attentions, kwargs):  # type: ignore[no-untyped-def]
        return keys[:, :, -self.kept :], values[:, :, -self.kept :]


@torch.inference_mode()
def test_presses_prune_what_one_reading_left(record, plain) -> None:
    ids, question = record["ids"][:300], record["questions"][0]
    whole = kvpress_side.cache_of([])
    kvpress_side.forward(plain, whole, ids[:200], 0)
    found = kvpress_side.pruned(plain, whole, ids[200:], 200, {"all": Latest(300), "few": Latest(10)})
    assert {name: layers[0][0].shape[2] for name, layers in found.items()} == {"all": 300, "few": 10}
    answers = {
        name: kvpress_side.answer(plain, kvpress_side.cache_of(layers), 300, question["opening"], question)
        for name, layers in found.items()
    }
    assert answers["all"] == kvpress_side.answer(plain, whole, 300, question["opening"], question)
    assert answers["few"] != answers["all"]


def test_a_finished_document_is_not_measured_again(record, tmp_path: Path, monkeypatch) -> None:
    def measured(model: Any, record: dict[str, Any]) -> Iterator[tuple[str, None, list[dict[str, float]]]]:
        yield "a", None, []
        yield "b", None, []

    monkeypatch.setattr(kvpress_side, "measure", measured)
    asked, outcomes = tmp_path / "records.jsonl", tmp_path / "outcomes.jsonl"
    records.write(asked, [record])
    for _ in range(2):
        kvpress_side.main(str(MODEL_DIR), asked, outcomes)
    assert [json.loads(line)["method"] for line in outcomes.read_text().splitlines()] == ["a", "b"]


METHODS = {  # method → right answers to the fact and to the other question, in each document
    "ours: full": (1, 1),
    "full cache of transformers": (1, 0),
    "ours, open: keydiff": (0, 1),
    "kvpress: KeyDiffPress": (1, 1),
    "kvpress: KeyDiffPress, literally": (1, 1),
    "ours, guided: keydiff": (1, 1),
    "ours, guided: namm": (1, 1),
    "kvpress: FinchPress, all questions": (0, 1),
    "BM25 passages, one question": (1, 1),
}


@pytest.fixture
def rows(document: Document, record: records.Record) -> list[dict[str, Any]]:
    made = [record | {"sha256": str(number)} for number in range(4)]
    lines = [
        {
            "document": str(number),
            "method": method,
            "budget": None if "full" in method else "25%",
            "forced": [{"tokens": 2, "right": 2 * right, "nll": 1.0} for right in answers],
        }
        for number in range(4)
        for method, answers in METHODS.items()
    ]
    lines.append({"document": "of another run", "method": "x", "budget": None, "forced": []})
    common = {
        "model": "m",
        "dtype": "bfloat16",
        "documents": 4,
        "questions": 8,
        "lengths": [4096],
        "versions": dict.fromkeys(("kvpress", "transformers", "bm25s", "torch"), "1"),
        "machine": MACHINE,
    }
    return [row | common for row in compare.rows([document] * 4, made, lines)]


def test_rows_compare_with_ours_of_the_same_knowledge(rows) -> None:
    minus = {row["method"]: row["minus_ours"] for row in rows}
    assert minus["ours, open: keydiff"] is None
    assert minus["kvpress: KeyDiffPress"]["value"] == 0.5
    assert minus["kvpress: FinchPress, all questions"]["value"] == -0.5
    assert minus["ours, guided: namm"]["value"] == minus["BM25 passages, one question"]["value"] == 0
    (theirs,) = (row for row in rows if row["method"] == compare.THEIR_FULL)
    assert theirs["same_as_ours"] == {"answers": 8, "same": 4, "nats_apart": 0.0}
    assert (theirs["right_facts"], theirs["right_several"]) == ("4 of 4", "0 of 4")


def test_the_table_prints_losses_like_wins(rows) -> None:
    text = table.peers(rows)
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines()}
    assert cells["KeyDiff"][2] == "**+50.0 [+50.0, +50.0]**"
    assert cells["Finch"][2] == "**-50.0 [-50.0, -50.0]**"
    assert cells["**KeyDiff, ours**"][2] == "–"
    assert cells["**namm, ours**"][0] == "`namm_runtime/policies/namm.py`"
    assert "agree on 4 of 8 answers" in text
    assert "on 8 of 8 answers about the first document" in text


def test_code_that_the_table_names_exists() -> None:
    for reading, names in ours.POLICIES.items():
        for name in names:
            _, code = table.named(f"ours, {reading}: {name}")
            assert (Path(__file__).parents[2] / code.strip("`")).is_file()
