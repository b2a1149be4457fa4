"""An interrupted run goes on as it would have, in this process, in another, and spread over several."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from namm_runtime.cli import app
from namm_runtime.errors import Refusal
from namm_runtime.evolve.config import EvolutionConfig, Stage
from namm_runtime.evolve.evaluators import ProcessPoolEvaluator
from namm_runtime.evolve.search import Search
from namm_runtime.scorer import checkpoint

TOML = """
name = "tiny"
version = "1"
budget = 64
interval = 128
tokens = 512
questions = 2
documents = 1
population = 4
validate_every = 2
validation_documents = 2
[[stages]]
families = ["kv"]
generations = 4
"""


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


def test_processes_find_what_one_process_finds(bundled, small, straight, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes of the pool have
    try:
        alone = Search(bundled, small, tmp_path / "alone")
        with ProcessPoolEvaluator(small, 2) as pool:
            spread = Search(bundled, small, tmp_path / "spread", pool)
            for one, other in zip(alone.run(), spread.run(), strict=True):
                assert (one.best, one.mean) == (other.best, other.mean)
    finally:
        torch.set_num_threads(threads)


def test_a_killed_command_goes_on_as_it_would_have(tmp_path):
    """SIGKILL after the first generation; the same command again ends where an unbroken one does."""
    config = tmp_path / "tiny.toml"
    config.write_text(TOML)

    def command(out: str) -> list[str]:
        return [sys.executable, "-m", "namm_runtime.cli", "evolve", str(config), "--out", str(tmp_path / out)]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command("broken"), env=environment, stdout=subprocess.DEVNULL) as process:
        log = tmp_path / "broken" / "run" / "log.jsonl"
        while process.poll() is None and (not log.exists() or not log.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was to be killed on its way"
    for out in ("broken", "whole"):
        subprocess.run(command(out), env=environment, check=True, capture_output=True)
    broken, whole = (checkpoint.load(tmp_path / out) for out in ("broken", "whole"))
    assert torch.equal(broken.parameters, whole.parameters)
    logs = [(tmp_path / out / "evolution.jsonl").read_text().splitlines() for out in ("broken", "whole")]
    best = [[json.loads(line)["best"] for line in lines] for lines in logs]
    assert len(best[0]) == 4
    assert best[0] == best[1]
    assert (tmp_path / "whole" / "evolution.svg").stat().st_size > 0


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "Invalid"),
        (f'colour = "red"\n{TOML}', "colour"),
        (TOML.replace("tokens = 512", "tokens = 500"), "multiple of interval"),
        (TOML.replace('"kv"', '"kw"'), "kw"),
        (TOML.replace("population = 4", "population = 2"), "population"),
        (f'start = "here"\n{TOML}', "start"),
        (TOML.partition("[[stages]]")[0], "stages"),
        (f"threshold = 2.0\n{TOML}", "initial_bias"),
        (f"patience = -1\n{TOML}", "patience"),
        (f"sigma = 0.0\n{TOML}", "sigma"),
        (TOML.replace("budget = 64", "budget = 64.5"), "budget"),
        (TOML + "sigma = 0.0\n", "stage's sigma"),
        (TOML + "documents = 0\n", "stage's documents"),
        (f"stages = [1]\n{TOML.partition('[[stages]]')[0]}", "Stage"),
    ],
)
def test_bad_configs_are_refused(tmp_path, text, said):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(Refusal) as refusal:
        EvolutionConfig.read(path)
    assert refusal.value.code == "bad_config"
    result = CliRunner().invoke(app, ["evolve", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    assert said in refusal.value.message


def test_documents_that_do_not_fit_are_refused_in_words(tmp_path):
    (tmp_path / "c.toml").write_text(f"relevant = 0.01\n{TOML}")
    result = CliRunner().invoke(app, ["evolve", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "larger budget" in result.output
