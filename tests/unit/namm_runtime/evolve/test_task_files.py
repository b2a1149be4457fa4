"""A task carried as a file is the task itself; what cannot be done comes back as a sentence."""

from dataclasses import replace

import pytest
import torch

from namm_runtime.errors import Refusal
from namm_runtime.evolve import task_files
from namm_runtime.evolve.batches import DocumentSample
from namm_runtime.evolve.evaluators import LocalEvaluator
from namm_runtime.evolve.initial_scorer import build_initial_scorer


@pytest.fixture
def task(bundled, small):
    scorer = build_initial_scorer(bundled, small)
    return scorer, (
        torch.stack((scorer.parameters, -scorer.parameters)),
        DocumentSample("train", 7, ("kv", "repeated")),
    )


def test_marks_are_those_of_the_task(bundled, small, task, tmp_path):
    scorer, given = task
    task_files.write_task(tmp_path / "task", small, bundled, scorer, given)
    task_files.run_task(bundled, tmp_path / "task", tmp_path / "scores")
    found, expected = (
        task_files.read_scores(tmp_path / "scores"),
        LocalEvaluator(bundled, small).evaluate(scorer, [given])[0],
    )
    for name, tensor in vars(expected).items():
        assert torch.equal(getattr(found, name), tensor)


@pytest.mark.parametrize("wrong", ["model", "unreadable", "document"])
def test_what_cannot_be_done_is_said(bundled, small, task, tmp_path, wrong):
    scorer, given = task
    model = replace(bundled, revision="another") if wrong == "model" else bundled
    config = replace(small, relevant=0.01) if wrong == "document" else small
    task_files.write_task(tmp_path / "task", config, model, scorer, given)
    if wrong == "unreadable":
        (tmp_path / "task").write_bytes(b"not a task")
    task_files.run_task(bundled, tmp_path / "task", tmp_path / "scores")
    with pytest.raises(Refusal) as refusal:
        task_files.read_scores(tmp_path / "scores")
    assert refusal.value.code == "evolution_failed"
    assert {"model": "another", "unreadable": "cannot be read", "document": "fits"}[wrong] in str(
        refusal.value
    )
