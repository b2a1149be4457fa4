"""A training run resumes to the same weights, and a second phase continues the first."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.training import train
from namm_runtime.training.curriculum import TOKENS_PER_BATCH
from tests.support.untrained import build


@pytest.mark.parametrize(("before", "cluttered"), [(None, False), ({"tokens": [1], "log": []}, True)])
def test_a_training_begins_without_clutter_and_goes_on_with_it(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any] | None,
    cluttered: bool,
) -> None:
    run = train.Run(build(tokenizer), tokenizer, 0, 10 * TOKENS_PER_BATCH, tmp_path, before)
    monkeypatch.setattr(train, "draw_length", lambda done, rng: 64)

    def look(batch: train.Batch) -> Any:
        assert batch.cluttered is cluttered
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_update", look)
    with pytest.raises(KeyboardInterrupt):
        run.train()


def test_a_resumed_run_makes_the_same_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_SAVE_EVERY", 2)
    monkeypatch.setattr(train, "_LOG_EVERY", 1)

    def run(folder: str) -> train.Run:
        (tmp_path / folder).mkdir(exist_ok=True)
        return train.Run(build(tokenizer), tokenizer, 3, 4 * TOKENS_PER_BATCH, tmp_path / folder)

    whole = run("whole")
    whole.train()
    stopped = run("stopped")
    update, updates = stopped._update, iter(range(3))

    def killed(batch: train.Batch) -> Any:
        if next(updates, None) is None:
            raise KeyboardInterrupt
        return update(batch)

    monkeypatch.setattr(stopped, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = run("stopped")
    resumed.restore()
    assert resumed.step == 2
    resumed.train()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [entry["step"] for entry in resumed.log] == [1, 2, 3, 4]
    assert len((tmp_path / "stopped" / "log.jsonl").read_text().splitlines()) == 4


def test_training_goes_on_from_a_trained_model(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_LOG_EVERY", 1)
    monkeypatch.setattr(train, "draw_length", lambda done, rng: 64)
    monkeypatch.setattr(train, "train_tokenizer", lambda seed, length: tokenizer)
    first, second = tmp_path / "first", tmp_path / "second"
    for more in (["--out", str(first)], ["--out", str(second), "--start", str(first)]):
        monkeypatch.setattr("sys.argv", ["train", "--tokens", str(2 * TOKENS_PER_BATCH), *more])
        train.main()
    before, after = (json.loads((folder / "training.json").read_text()) for folder in (first, second))
    assert after["tokens"] == [*before["tokens"], 2 * TOKENS_PER_BATCH]
    assert (before["devices"], after["devices"]) == (["cpu"], ["cpu", "cpu"])
    assert after["log"][: len(before["log"])] == before["log"]
    assert [entry["tokens"] // TOKENS_PER_BATCH for entry in after["log"]] == [1, 2, 3, 4]
    assert after["log"][-1]["seconds"] >= before["log"][-1]["seconds"]
    weights = [LlamaForCausalLM.from_pretrained(folder).state_dict() for folder in (first, second)]
    moved = max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0])
    assert 0 < moved < 0.05, "two steps away, not a fresh start"
