"""The command for a lent GPU, run where there is none: the same steps on a tiny shape."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import torch

from benchmarks.gpu import answers, reading, rows, tables
from benchmarks.gpu.reading import Setting, flops_a_token, random_llama, random_scorer
from namm_runtime.policies.namm import Namm
from namm_runtime.policies.streaming import Streaming
from tests.support import REPOSITORY

ROOT = REPOSITORY


def test_every_step_runs_and_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "TOKENS", 1024)
    monkeypatch.setattr(answers, "QUESTIONS", 2)
    arguments = ["--device", "cpu", "--tokens", "1536", "--budget", "128", "--interval", "128"]
    status = rows.main([*arguments, "--policies", "namm,h2o", "--out", str(tmp_path / "out")])
    written = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert status == 0
    assert written["machine"]["device"] == "cpu"
    assert all(row.get("ok", "unavailable" in row or row["check"] == "company") for row in written["checks"])
    assert {row["check"] for row in written["checks"]} == {
        "attention",
        "second pass",
        "scorer",
        "company",
        "answers",
    }
    assert [row["kernel"] for row in written["kernels"]] == ["two calls and merge", "second pass"]
    for row, policy in zip(written["readings"], ("namm", "h2o"), strict=True):
        assert (row["policy"], row["tokens"], row["complete"]) == (policy, 1536, True)
        assert row["attention"].startswith("plain attention")
        assert row["tokens_per_second"] > 0
        assert row["answer_milliseconds"] > 0
    checks = sum("ok" in row for row in written["checks"])
    shown = tables.gpu(written)
    assert f"{checks} of {checks} checks" in shown
    assert "1,536 of 1,536 tokens" in shown
    written["checks"][0] |= {"ok": False, "kernel": "broken"}
    assert "broken" in tables.gpu(written)


def test_reading_stops_when_time_is_up():
    model = random_llama("tiny", torch.device("cpu"), torch.float32)
    row = reading.read(model, Setting("tiny", "streaming", 10**9, 128, 128, 0.0), None)
    assert row["tokens"] == row["series"][-1][0] == 32 * 512
    assert not row["complete"]


def test_a_failing_check_is_the_exit_status(tmp_path, monkeypatch):
    monkeypatch.setitem(rows.FOLD_LIMITS, "torch", 0.0)
    assert rows.main(["--device", "cpu", "--steps", "checks", "--out", str(tmp_path)]) == 1


def test_the_floor_counts_every_product():
    model = random_llama("tiny", torch.device("cpu"), torch.float32)
    setting = Setting("tiny", "namm", 1, 512, 512, 1.0)
    work = flops_a_token(model, setting, Namm(random_scorer()))
    per_layer = 128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 128  # q and o, k and v, the three of the MLP
    assert work["linear"] == 2 * 2 * per_layer
    assert work["attention"] == 2 * work["columns"] == 2 * 4 * 4 * 32 * (512 + 256)
    scorer = random_scorer()
    blind = Namm(replace(scorer, config=replace(scorer.config, spectrum_zeroed=True)))
    assert work.keys() - flops_a_token(model, setting, blind).keys() == {"columns", "spectrum"}
    assert "scorer" not in flops_a_token(model, setting, Streaming())


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert rows.main(["--out", str(tmp_path)]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_script_finds_its_way(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    command = [ROOT / "benchmarks" / "gpu.sh", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout


def test_it_is_a_benchmark_among_the_others():
    command = [sys.executable, "-m", "benchmarks", "gpu", "--policies", "namm,streaming"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == rows.NO_GPU, done.stderr
    assert "--device cpu" in done.stderr
