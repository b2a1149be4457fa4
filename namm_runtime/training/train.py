"""Train a bundled model: `python -m namm_runtime.training.train --out DIR [--shape S --seed 0 --tokens N]`.

Needs one CPU core, no network, and no data except this package and Python's standard library. The budget is a
number of tokens, so the same build of torch gives the same weights however often the run is stopped and
resumed. On a GPU (`--device cuda`) it takes minutes instead of hours, but weights differ from run to run.
"""

import argparse
import json
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.atomic_file import replacing
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.suite import encoder
from namm_runtime.training.circuit_init import constants, hold_constants, initialise
from namm_runtime.training.curriculum import Batch, draw_length, make_batch
from namm_runtime.training.losses import (
    answer_loss,
    gaze_loss,
    key_loss,
    near_loss,
    relevance_loss,
    text_loss,
)
from namm_runtime.training.model_card import devices_of
from namm_runtime.training.saving import save_model
from namm_runtime.training.shapes import SHAPES, WINDOW, bundled_config
from namm_runtime.training.tokenizer import train_tokenizer, word_twins
from namm_runtime.training.traced_forward import traced_forward

_LEARNING_RATE = 2e-3
_WARMUP_STEPS = 50
_DECAY_FROM, _FLOOR = 0.6, 0.03
_TEXT_WEIGHT, _TEXT_EVERY = 0.1, 2
_LOSS_WEIGHTS = {"key_loss": 0.2, "gaze_loss": 0.05, "relevance_loss": 0.5}  # 1 for the others
_EMA = 0.95
_LOG_EVERY, _SAVE_EVERY = 25, 200  # steps


@dataclass(slots=True)
class Entry:
    """One line of the training log; losses are those of the last batch."""

    seconds: float  # of training
    step: int
    tokens: int
    length: int  # of the last batch's sequences, in tokens
    answer_loss: float  # nats a token
    key_loss: float  # nats
    gaze_loss: float  # nats
    relevance_loss: float  # nats
    near_loss: float  # nats
    text_loss: float | None  # nats a token of ordinary text
    accuracy: dict[str, float]  # family -> running answer-token accuracy on training batches
    told: dict[str, float]  # family -> running balanced accuracy of the probe for needed values


def main() -> None:
    """Train and write the folder; `namm_runtime.training.evaluate` adds the evaluation and the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; created if missing")
    parser.add_argument("--shape", choices=SHAPES, default="main")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--start", type=Path, help="continue from this model, at half the learning rate")
    parser.add_argument("--resume", action="store_true", help="resume from the folder's state.pt")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    before = json.loads((arguments.start / "training.json").read_text()) if arguments.start else None
    if arguments.resume or arguments.start:
        tokenizer = AutoTokenizer.from_pretrained(out if arguments.resume else arguments.start)
    else:
        tokenizer = train_tokenizer(arguments.seed, WINDOW)
    tokenizer.save_pretrained(out)
    shape = SHAPES[arguments.shape]
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    model = LlamaForCausalLM(bundled_config(shape, len(tokenizer), *ends))
    if arguments.start:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(arguments.start).state_dict())
    else:
        initialise(model, shape, arguments.seed, word_twins(tokenizer))
    torch.set_default_device(arguments.device)
    model.to(arguments.device)
    run = Run(model, tokenizer, arguments.seed, arguments.tokens, out, before)
    if arguments.resume:
        run.restore()
    log = run.train()
    save_model(model, tokenizer, out)
    record = {
        "shape": arguments.shape,
        "seed": arguments.seed,
        "tokens": [*(before["tokens"] if before else ()), arguments.tokens],
        "threads": arguments.threads,
        "devices": [*(devices_of(before) if before else ()), _device_name(arguments.device)],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "log": log,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "state.pt").unlink(missing_ok=True)


class Run:
    """A training run that can be stopped after any step and resumed to the same weights.

    Args:
        before: record of the training that the model starts from. The curriculum then starts at its last
            stage (all lengths, with clutter), and the log is continued.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        tokens: int,
        out: Path,
        before: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.tokens, self.out = model, tokenizer, tokens, out
        self.encode = encoder(tokenizer)
        self.phase = len(before["tokens"]) if before else 0
        self.rng = random.Random(f"training:{seed}" + f":{self.phase}" * bool(self.phase))
        torch.manual_seed(seed)
        self.step = self.read = 0  # tokens
        self.constants = constants(model)
        hold_constants(model, self.constants)
        self.probe = torch.nn.Linear(model.config.hidden_size, 1)
        self.log: list[dict[str, Any]] = before["log"] if before else []
        last: dict[str, Any] = self.log[-1] if self.log else {}
        self.tokens_before, self.seconds = last.get("tokens", 0), last.get("seconds", 0.0)
        self.accuracy: dict[str, float] = dict(last.get("accuracy", {}))
        self.told: dict[str, float] = dict(last.get("told", {}))
        self.text: float | None = None
        decayed = [weight for weight in model.parameters() if weight.dim() > 1]
        plain = [weight for weight in model.parameters() if weight.dim() == 1] + [*self.probe.parameters()]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
            lr=self._learning_rate(0.0),
            betas=(0.9, 0.98),
        )

    def train(self) -> list[dict[str, Any]]:
        """Train to the end and return the log; state and log are saved regularly."""
        self.model.train()
        start = time.monotonic() - self.seconds
        while self.read < self.tokens:
            done = self.read / self.tokens
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate(done)
            stage = 1.0 if self.phase else done
            length = draw_length(stage, self.rng)
            batch = make_batch(self.tokenizer, self.encode, length, self._weights(), self.rng, stage)
            losses = self._update(batch)
            self.seconds = time.monotonic() - start
            if self.step % _LOG_EVERY == 0 or self.read >= self.tokens:
                self._write_log(length, losses)
            if self.step % _SAVE_EVERY == 0:
                self.save()
        self.model.eval()
        return self.log

    def _learning_rate(self, done: float) -> float:
        return _LEARNING_RATE * (0.5 if self.phase else 1.0) * _schedule(self.step, done)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        trace = traced_forward(self.model, batch.ids, batch.question_starts, batch.view, batch.positions)
        answers, accuracy = answer_loss(self.model, trace, batch)
        relevance, told = relevance_loss(trace, batch, self.probe)
        losses = {
            "answer_loss": answers,
            "key_loss": key_loss(trace, batch),
            "gaze_loss": gaze_loss(trace, batch),
            "relevance_loss": relevance,
            "near_loss": near_loss(trace, batch),
        }
        loss = torch.stack([_LOSS_WEIGHTS.get(name, 1.0) * value for name, value in losses.items()]).sum()
        if self.step % _TEXT_EVERY == 0:
            text = text_loss(self.model, trace, batch)
            self.text = round(text.item(), 3)
            loss = loss + _TEXT_WEIGHT * text
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        hold_constants(self.model, self.constants)
        self.step += 1
        self.read += batch.ids.numel()
        for family, value in zip(batch.families, accuracy, strict=True):
            _update_mean(self.accuracy, family, value)
        for family, values in told.items():
            for value in values:
                _update_mean(self.told, family, value)
        return losses

    def _weights(self) -> dict[str, float]:
        """Sampling weights: higher for families with low accuracy of the answers or of the probe."""
        right = {
            family: min(self.accuracy.get(family, 0.7), self.told.get(family, 1.0)) for family in FAMILIES
        }
        return {family: 0.4 + min(1.2, 2 * (1 - value)) for family, value in right.items()}

    def _write_log(self, length: int, losses: dict[str, Tensor]) -> None:
        entry = Entry(
            seconds=round(self.seconds, 1),
            step=self.step,
            tokens=self.tokens_before + self.read,
            length=length,
            **{name: round(loss.item(), 4) for name, loss in losses.items()},
            text_loss=self.text,
            accuracy={family: round(self.accuracy[family], 4) for family in sorted(self.accuracy)},
            told={family: round(self.told[family], 4) for family in sorted(self.told)},
        )
        self.log.append(asdict(entry))
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(self.log[-1]) + "\n")
        sys.stdout.write(json.dumps(self.log[-1]) + "\n")
        sys.stdout.flush()

    def save(self) -> None:
        """Write everything the next step depends on, and the current model for inspection."""
        state = {
            "model": self.model.state_dict(),
            "probe": self.probe.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.rng.getstate(),
            "torch": torch.get_rng_state(),
            "step": self.step,
            "read": self.read,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "accuracy": self.accuracy,
            "told": self.told,
            "text": self.text,
            "log": self.log,
        }
        with replacing(self.out / "state.pt") as partial:
            torch.save(state, partial)
        save_model(self.model, self.tokenizer, self.out)

    def restore(self) -> None:
        """Resume from the last saved state; later entries are dropped from the log."""
        state = torch.load(self.out / "state.pt", weights_only=True)
        if state["tokens"] != self.tokens:
            raise SystemExit(f"the run in {self.out} has --tokens {state['tokens']}; resume with the same")
        self.model.load_state_dict(state["model"])
        self.probe.load_state_dict(state["probe"])
        self.optimiser.load_state_dict(state["optimiser"])
        version, numbers, gauss = state["random"]
        self.rng.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(state["torch"])
        self.step, self.read, self.seconds = state["step"], state["read"], state["seconds"]
        self.accuracy, self.told = state["accuracy"], state["told"]
        self.text, self.log = state["text"], state["log"]
        (self.out / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in self.log))


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _update_mean(means: dict[str, float], family: str, value: float) -> None:
    means[family] = _EMA * means.get(family, value) + (1 - _EMA) * value


def _schedule(step: int, done: float) -> float:
    """Linear warm-up, then constant, then a linear decay to a floor."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    fall = 1.0 if done < _DECAY_FROM else 1.0 - (1.0 - _FLOOR) * (done - _DECAY_FROM) / (1.0 - _DECAY_FROM)
    return warm * fall


if __name__ == "__main__":
    main()
