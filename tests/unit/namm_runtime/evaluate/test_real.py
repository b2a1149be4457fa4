"""Suites of real text: what they contain, and what is measured on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime.engine import Engine
from namm_runtime.errors import Refusal
from namm_runtime.evaluate.budget import Budget
from namm_runtime.evaluate.evaluation import Evaluation, Settings
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.markdown import markdown
from namm_runtime.evaluate.real import RealSuite
from namm_runtime.evaluate.spec import PolicySpec
from namm_runtime.evaluate.suite import SUITES, Suite, load
from tests.support.tiny import byte_tokenizer

SUITE = """
name = "small"
source = "library"
lengths = [1536]
documents = 2
facts = 2
hard = 1
absent = 1
text = 1
quotes = 1
max_output_tokens = 3
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return path


def settings_for(model: Path, suite: Path, **changes: object) -> Settings:
    settings = Settings(
        tasks=(str(suite),),
        policies=tuple(PolicySpec.parse(name) for name in ("full", "streaming")),
        budgets=(Budget.parse("25%"),),
        model=str(model),
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def evaluated(settings: Settings, journal: Path) -> tuple[dict, int]:
    evaluation = Evaluation(settings, Journal(journal))
    done = sum(1 for _ in evaluation.run())
    return evaluation.report(), done


def row_of(report: dict, policy: str, reading: str = "open") -> dict:
    (row,) = [row for row in report["rows"] if (row["policy"], row["reading"]) == (policy, reading)]
    return row


def test_the_headline_suite_has_forty_documents_at_multiples_of_the_interval():
    suite = Suite.read(SUITES / "real.toml")
    assert isinstance(suite, RealSuite)
    assert suite.documents * len(suite.lengths) >= 40
    assert suite.documents * len(suite.lengths) * suite.facts >= 200
    assert all(length % 512 == 0 for length in suite.lengths)
    assert suite.split == "test"


def test_rows_hold_every_measure(tiny_model, suite, tmp_path):
    report, done = evaluated(settings_for(tiny_model, suite), tmp_path / "j.jsonl")
    assert done == 4
    row = row_of(report, "streaming")
    assert set(row["tasks"]) >= {"fact", "quote", "absent"}
    assert row["questions"] == 4  # of the planted facts alone
    assert row["score"] == row["tasks"]["fact"]["score"]
    assert row["kept_fraction"] == row["kept_fraction_most"] == 384 / 1536  # nothing pending
    real = row["real"]
    assert real["nll"] > 0
    assert real["continuation"] > 0
    assert row_of(report, "full")["real"]["continuation_less_full"] == 0
    items = [item for document in load([str(suite)], byte_tokenizer()) for item in document.items]
    asked = {item.task for item in items if item.asked}
    assert set(real["generated"]) == asked - {"absent"}
    assert real["evicted_attention"] == {"forced": None, "generated": None}
    assert "Continuation: nats per token" in markdown(report)
    json.dumps(report, allow_nan=False)


def test_finished_work_is_kept_by_reading(tiny_model, suite, tmp_path):
    journal = tmp_path / "j.jsonl"
    evaluated(settings_for(tiny_model, suite), journal)
    report, done = evaluated(settings_for(tiny_model, suite, readings=("open", "guided")), journal)
    assert done == 2  # the full cache is read once
    assert [(row["policy"], row["reading"]) for row in report["rows"]] == [
        ("full", "open"), ("streaming", "open"), ("streaming", "guided"),
    ]  # fmt: skip
    assert set(row_of(report, "streaming", "guided")["minus"]) == {"full"}
    assert "| streaming, guided | 25% |" in markdown(report)
    assert evaluated(settings_for(tiny_model, suite, readings=("guided", "open")), journal)[1] == 0
    assert evaluated(settings_for(tiny_model, suite, readings=("guided",), guide="one"), journal)[1] == 2


def test_prompts_and_reading_reach_the_engine(tiny_model, suite, tmp_path, monkeypatch):
    requests = []
    complete = Engine.complete

    def noted(self, request, snapshot=None):
        requests.append(request)
        return complete(self, request, snapshot)

    monkeypatch.setattr(Engine, "complete", noted)
    settings = settings_for(tiny_model, suite, policies=(PolicySpec.parse("streaming"),))
    evaluated(replace(settings, readings=("guided",)), tmp_path / "a.jsonl")
    documents = load([str(suite)], byte_tokenizer())
    prompts = [tuple(item.input for item in document.items if item.asked) for document in documents]
    assert [request.prompts for request in requests] == prompts
    assert {request.reading for request in requests} == {"guided"}
    requests.clear()
    evaluated(replace(settings, readings=("guided",), guide="one"), tmp_path / "b.jsonl")
    assert [request.prompts for request in requests] == [(one,) for some in prompts for one in some]


def test_without_answers_only_what_is_forced_is_scored(tiny_model, suite, tmp_path):
    report, _ = evaluated(settings_for(tiny_model, suite, generate=False), tmp_path / "j.jsonl")
    row = row_of(report, "streaming")
    assert row["score"] is not None
    assert row["tasks"]["absent"]["score"] is None
    assert row["real"]["not_found"] is None
    assert all(part["score"] is None for part in row["real"]["generated"].values())
    markdown(report)


def test_evicted_attention_is_set_against_wrong_answers(tiny_model, suite, tmp_path):
    settings, journal = settings_for(tiny_model, suite), tmp_path / "j.jsonl"
    evaluated(settings, journal)
    evaluation = Evaluation(settings, Journal(journal))
    for entry in evaluation.journal.entries.values():
        entry["forced"][0] |= {"right": entry["forced"][0]["tokens"]}
        entry["forced"][1] |= {"right": 0}
        entry["evicted_attention"][:2] = [0.1, 0.9]
    risk = row_of(evaluation.report(), "streaming")["real"]["evicted_attention"]["forced"]
    assert (risk["auroc"], risk["wrong"], risk["right"]) == (1.0, 2, 2)


@pytest.mark.parametrize(
    "change",
    ["documents = 0", "lengths = []", "facts = 0", "hard = -1", 'split = "secret"', 'source = "web"',
     'source = "folder"', 'folder = "x"', "colour = 1", 'quotes = "two"'],
)  # fmt: skip
def test_bad_suites_are_refused(suite, change):
    name = change.partition(" =")[0]
    lines = [line for line in SUITE.splitlines() if not line.startswith(f"{name} ")]
    suite.write_text("\n".join([*lines, change]))
    with pytest.raises(Refusal) as refusal:
        Suite.read(suite)
    assert refusal.value.code == "bad_suite"


def test_a_suite_of_real_text_can_be_made_of_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        text = " ".join(f"Chapter {number} says that item {place} is kept here." for place in range(60))
        (folder / f"{number}.md").write_text(f"{text}\n")
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.replace('"library"', '"folder"') + 'folder = "texts"\n')
    found = load([str(path)], byte_tokenizer())
    assert len(found) == 2
    assert all("says that item" in document.text for document in found)
    monkeypatch.setattr("namm_runtime.evaluate.suite.SUITES", tmp_path)
    path.write_text(SUITE)
    assert [d.text for d in load([f"mine={folder}"], byte_tokenizer())] == [d.text for d in found]
    (tmp_path / "made.toml").write_text('name = "made"\nlengths = [600]\ndocuments = 1\nquestions = 1\n')
    with pytest.raises(Refusal, match="takes no folder"):
        load([f"made={folder}"], byte_tokenizer())


def test_readings_and_guides_that_do_not_exist_are_refused(tiny_model, suite, tmp_path):
    for change in ({"readings": ("aloud",)}, {"readings": ("open", "open")}, {"guide": "two"}):
        with pytest.raises(Refusal) as refusal:
            Evaluation(settings_for(tiny_model, suite, **change), Journal(tmp_path / "j.jsonl"))
        assert refusal.value.code == "bad_request"
