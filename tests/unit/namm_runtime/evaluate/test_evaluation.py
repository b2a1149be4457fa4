"""The grid: same path for all, resumed after a kill, nothing mixed in that belongs to something else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime.engine import Engine, Request
from namm_runtime.evaluate import unit
from namm_runtime.evaluate.budget import Budget
from namm_runtime.evaluate.evaluation import Evaluation, Settings
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.markdown import markdown
from namm_runtime.evaluate.metrics import score_answer
from namm_runtime.evaluate.unit import PolicySpec
from namm_runtime.model.loading import load_model
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig


def settings_for(
    model: Path, tasks: Path, policies: str = "full,h2o,streaming", **changes: object
) -> Settings:
    settings = Settings(
        tasks=(str(tasks),),
        policies=tuple(PolicySpec.parse(name) for name in policies.split(",")),
        budgets=(Budget.parse("64"), Budget.parse("25%")),
        model=str(model),
        interval=32,
        max_output_tokens=3,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def complete(settings: Settings, journal: Path) -> tuple[dict, int]:
    """The report, and how many units had to be done for it."""
    evaluation = Evaluation(settings, Journal(journal))
    done = sum(1 for _ in evaluation.run())
    return evaluation.report(), done


def row_of(report: dict, policy: str, budget: str | None) -> dict:
    (row,) = [row for row in report["rows"] if (row["policy"], row["budget"]) == (policy, budget)]
    return row


def without_clock(report: dict) -> dict:
    timed = {"tokens_per_second", "read_seconds", "scorer_share_of_reading"}
    rows = [{name: value for name, value in row.items() if name not in timed} for row in report["rows"]]
    return report | {"rows": rows}


def test_rows_say_what_the_engine_gave(tiny_model, questions, tmp_path):
    tasks = questions()
    report, done = complete(settings_for(tiny_model, tasks), tmp_path / "j.jsonl")
    assert done == 4 * (1 + 2 * 2)
    assert [(row["policy"], row["budget"]) for row in report["rows"]] == [
        ("full", None), ("h2o", "64"), ("h2o", "25%"), ("streaming", "64"), ("streaming", "25%"),
    ]  # fmt: skip
    model = load_model(tiny_model)
    evaluation = Evaluation(settings_for(tiny_model, tasks), Journal(tmp_path / "other.jsonl"))
    scores = {"letters": [], "words": []}
    kept = []
    for document in evaluation.documents:
        path = tmp_path / "document.txt"
        path.write_text(document.text)
        prompts = tuple(item.input for item in document.items)
        request = Request(
            path, prompts, "h2o", 64, interval=32, max_output_tokens=3, positions="cache-relative"
        )
        run = Engine(model).complete(request)
        kept.append(run.usage.kept_fraction)
        for item, answer in zip(document.items, run.answers, strict=True):
            scores[item.task].append(score_answer(answer.text, item))
    row = row_of(report, "h2o", "64")
    by_task = {task: sum(found) / len(found) for task, found in scores.items()}
    assert row["score"] == pytest.approx(sum(by_task.values()) / 2, abs=1e-6)
    assert row["tasks"]["words"]["score"] == pytest.approx(by_task["words"], abs=1e-6)
    assert row["kept_fraction"] == pytest.approx(sum(kept) / 4, abs=1e-6)
    assert (row["questions"], row["documents"]) == (8, 4)
    assert row["slots"] == [64, 64]
    assert set(row["minus"]) == {"full", "streaming"}
    full = row_of(report, "full", None)
    assert (full["of_full"], full["kept_fraction"], full["slots"]) == (1, 1, None)
    assert row["of_full"] == pytest.approx(row["score"] / full["score"], abs=1e-5)
    difference = row["minus"]["full"]["value"]
    assert difference == pytest.approx(row["score"] - full["score"], abs=1e-5)


def test_a_share_bounds_what_is_kept_with_what_waits_at_the_end(tiny_model, questions, tmp_path):
    report, _ = complete(settings_for(tiny_model, questions(), "streaming"), tmp_path / "j.jsonl")
    row = row_of(report, "streaming", "25%")
    assert row["kept_fraction_most"] <= 0.25
    assert row["kept_fraction"] > 0.25 - 16 / 400
    assert row["slots"][0] < row["slots"][1]


def test_finished_work_is_not_done_again_and_a_torn_line_is(tiny_model, questions, tmp_path):
    settings, journal = settings_for(tiny_model, questions()), tmp_path / "j.jsonl"
    first, _ = complete(settings, journal)
    assert complete(settings, journal) == (first, 0)
    torn = journal.read_bytes()[:-40]
    journal.write_bytes(torn)
    again, done = complete(settings, journal)
    assert done == 1
    assert without_clock(again) == without_clock(first)
    assert len(journal.read_bytes().splitlines()) == 20


def test_another_policy_needs_only_its_own_work(tiny_model, questions, tmp_path):
    tasks, journal = questions(), tmp_path / "j.jsonl"
    complete(settings_for(tiny_model, tasks, "full"), journal)
    _, done = complete(settings_for(tiny_model, tasks, "full,l2"), journal)
    assert done == 4 * 2


@pytest.mark.parametrize("change", ["questions", "interval", "positions", "length", "code", "weights"])
def test_what_an_answer_depends_on_is_never_mixed(tiny_model, questions, tmp_path, monkeypatch, change):
    settings, journal = settings_for(tiny_model, questions(), "streaming"), tmp_path / "j.jsonl"
    complete(settings, journal)
    if change == "questions":
        settings = replace(settings, tasks=(str(questions("other.jsonl", ask="Why?")),))
    elif change == "interval":
        settings = replace(settings, interval=48)
    elif change == "positions":
        settings = replace(settings, positions="absolute")
    elif change == "length":
        settings = replace(settings, max_output_tokens=4)
    elif change == "code":
        monkeypatch.setattr(unit, "code_hash", lambda: "another")
    else:
        from safetensors.torch import load_file, save_file

        copy = tmp_path / "model"
        copy.mkdir()
        for file in tiny_model.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        weights = load_file(copy / "model.safetensors")
        weights["model.norm.weight"] *= 1.01
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        settings = replace(settings, model=str(copy))
    assert complete(settings, journal)[1] == 4 * 2


def scorer(directory: Path, seed: int) -> Path:
    import torch

    config = ScorerConfig(threshold=None)
    parameters = torch.randn(config.bam.size, generator=torch.Generator().manual_seed(seed)) * 0.3
    Scorer("mine", "1", config, parameters, torch.full((17,), 0.1), torch.full((17,), 0.04)).save(directory)
    return directory


def test_a_scorer_of_ones_own_and_what_it_is_told_apart_by(tiny_model, questions, tmp_path):
    tasks, journal = questions(), tmp_path / "j.jsonl"
    directory = scorer(tmp_path / "mine", 0)
    settings = settings_for(tiny_model, tasks, f"mine={directory}", budgets=(Budget.parse("64"),))
    report, done = complete(settings, journal)
    assert (report["rows"][0]["policy"], report["rows"][0]["scorer"], done) == ("mine", "mine@1", 4)
    assert len(report["rows"][0]["scorer_sha256"]) == 64
    scorer(directory, 1)
    assert complete(settings, journal)[1] == 4
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"gamma": 0.99', '"gamma": 0.9'))
    assert complete(settings, journal)[1] == 4


def test_two_processes_give_what_one_gives(tiny_model, questions, tmp_path):
    tasks = questions()
    alone, _ = complete(settings_for(tiny_model, tasks, "streaming"), tmp_path / "a.jsonl")
    together, done = complete(settings_for(tiny_model, tasks, "streaming", processes=2), tmp_path / "b.jsonl")
    assert done == 8
    assert without_clock(together)["rows"] == without_clock(alone)["rows"]


def test_what_cannot_be_read_is_said_and_left_out(tiny_model, tmp_path, questions):
    tasks = questions()
    with tasks.open("a") as file:
        long = {
            "task": "letters",
            "context": "long " * 500,
            "input": "What?",
            "answers": ["x"],
            "metric": "edit",
        }
        file.write(json.dumps(long) + "\n")
    report, _ = complete(settings_for(tiny_model, tasks), tmp_path / "j.jsonl")
    full = row_of(report, "full", None)
    assert (full["documents"], full["refused"]["document_too_long"]["documents"]) == (4, 1)
    assert row_of(report, "streaming", "64")["documents"] == 5
    assert row_of(report, "streaming", "64")["minus"]["full"]["documents"] == 4
    assert "full, all: 1 documents (document_too_long)" in markdown(report)
