"""An interrupted run goes on as it would have, in this process, in another, and spread over several."""

import json
from dataclasses import replace

import pytest
import torch

from namm_runtime.errors import Refusal
from namm_runtime.evolve.config import Stage
from namm_runtime.evolve.search import Search


@pytest.fixture(scope="module")
def straight(bundled, small, tmp_path_factory):
    search = Search(bundled, small, tmp_path_factory.mktemp("straight"))
    return search, list(search.run())


def test_a_run_goes_through_its_stages(straight, small):
    search, reports = straight
    assert search.finished
    assert [report.stage for report in reports] == [1, 1, 2, 2]
    assert [report.documents for report in reports] == [8, 16, 24, 32]
    provenance = search.result().provenance
    assert provenance["candidate_documents"] == 4 * small.population * small.documents
    assert provenance["start"] == {"from": "zero"}
    best = max([search.start, *(report.validation for report in reports)], key=lambda check: check.fitness)
    assert provenance["validation"]["deployed"] == vars(best)
    assert provenance["deployed_generation"] == best.generation


def test_a_stage_may_take_other_steps_and_more_documents(bundled, small, straight, tmp_path):
    _, reports = straight
    first, second = small.stages
    config = replace(small, stages=(first, replace(second, documents=3, sigma=0.001)))
    search = Search(bundled, config, tmp_path)
    going = search.run()
    mine = [next(going), next(going), next(going)]
    assert [report.values for report in mine[:2]] == [report.values for report in reports[:2]]
    assert [report.documents for report in mine] == [8, 16, 16 + 3 * small.population]
    assert mine[1].sigma > 0.01 > 0.002 > mine[2].sigma
    last = next(going)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in search.log[:3]))
    search._lock.close()
    resumed = Search(bundled, config, tmp_path)
    assert resumed.documents == mine[2].documents
    assert next(resumed.run()).values == last.values


def test_an_interrupted_run_goes_on_as_it_would_have(bundled, small, straight, tmp_path):
    _, reports = straight
    next(Search(bundled, small, tmp_path).run())
    second = Search(bundled, small, tmp_path)
    assert second.generation == 1
    assert [report.best for report in second.run()] == [report.best for report in reports[1:]]
    assert torch.equal(second.result().parameters, straight[0].result().parameters)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    with pytest.raises(Refusal, match="another config"):
        Search(bundled, replace(small, sigma=0.1), tmp_path)
    with pytest.raises(Refusal, match="another process"):
        Search(bundled, small, tmp_path)


@pytest.mark.parametrize(("name", "content"), [("run.json", "{}"), ("log.jsonl", '{"values": [1]}\n')])
def test_a_damaged_run_is_refused(bundled, small, tmp_path, name, content):
    next(Search(bundled, small, tmp_path).run())
    (tmp_path / name).write_text(content)
    with pytest.raises(Refusal) as refusal:
        Search(bundled, small, tmp_path)
    assert refusal.value.code == "bad_config"


def test_a_stage_ends_when_its_patience_is_spent(bundled, small, tmp_path, monkeypatch):
    """Nothing is ever better than the start here, so each stage gets its patience and no more."""
    config = replace(small, patience=2, stages=(Stage(("kv",), 9), Stage(("repeated",), 9)))
    search = Search(bundled, config, tmp_path)
    monkeypatch.setattr(search, "_validate", lambda parameters: replace(search.start, fitness=-1.0))
    assert [report.stage for report in search.run()] == [1, 1, 2, 2]
    assert search.best.generation == 0


def test_covariances_shape_the_search(bundled, small, tmp_path):
    found = {}
    for covariance in ("separable", "isotropic"):
        config = replace(small, covariance=covariance, stages=(Stage(("kv",), 2),))
        search = Search(bundled, config, tmp_path / covariance)
        list(search.run())
        found[covariance] = search.strategy.mean
    assert (found["separable"] != found["isotropic"]).any()
