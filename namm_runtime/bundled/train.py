"""Make the bundled model: `python -m namm_runtime.bundled.train --out DIR [--seed 0 --minutes 14]`.

One CPU core, no network, no data but this package and Python's own standard library. Time decides when to
stop, so a faster machine sees more tokens; everything else follows from the seed.
"""

import argparse
import json
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.bundled.card import write_card
from namm_runtime.bundled.curriculum import LENGTHS, Batch, Curriculum, encoder, make_batch
from namm_runtime.bundled.evaluate import evaluate
from namm_runtime.bundled.forward import traced_forward
from namm_runtime.bundled.init import WINDOW, bundled_config, initialise
from namm_runtime.bundled.losses import answer_loss, gaze_loss, key_loss, text_loss
from namm_runtime.bundled.tokenizer import train_tokenizer
from namm_runtime.tasks.sequences import Role

_LEARNING_RATE = 2e-3
_WARMUP_STEPS = 50
_DECAY_FROM, _FLOOR = 0.7, 0.05
_TEXT_WEIGHT, _TEXT_EVERY = 0.1, 2
_KEY_WEIGHT, _GAZE_WEIGHT = 0.2, 0.05
# Questions see a shrunken cache in this share of the steps: room for the values times a factor.
_EVICTION_SHARE = 0.7
_EVICTION_FACTOR = (1.2, 3.0)
_SAVE_SECONDS = 120.0
_LOG_SECONDS = 15.0


@dataclass(slots=True)
class Entry:
    """One line of the training log."""

    seconds: float
    step: int
    tokens: int
    length: int  # longest length trained on so far, tokens
    answer_loss: float  # nats a token, last batch
    key_loss: float  # nats, last batch
    gaze_loss: float  # nats, last batch
    text_loss: float | None  # nats a token of ordinary text, last batch that had it
    accuracy: dict[int, float]  # length -> running answer-token accuracy on training batches


def main() -> None:
    """Train, evaluate on the test split and write the whole folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made if absent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=14.0, help="training time, without the evaluation")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    tokenizer = train_tokenizer(arguments.seed, WINDOW)
    config = bundled_config(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    model = LlamaForCausalLM(config)
    initialise(model, arguments.seed)
    record = {
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "threads": arguments.threads,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "log": train(model, tokenizer, arguments.seed, arguments.minutes * 60, arguments.out),
    }
    record["evaluation"] = [asdict(row) for row in evaluate(model, tokenizer)]
    save(model, tokenizer, arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    write_card(arguments.out, record)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, seconds: float, out: Path
) -> list[dict[str, object]]:
    """Train for a time and return the log; the model so far is saved in `out` every two minutes."""
    rng = random.Random(f"training:{seed}")
    encode = encoder(tokenizer)
    curriculum = Curriculum(rng)
    decayed = [weight for weight in model.parameters() if weight.dim() > 1]
    plain = [weight for weight in model.parameters() if weight.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=_LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    log: list[dict[str, object]] = []
    text: Tensor | None = None
    step = tokens = 0
    start = saved = logged = time.monotonic()
    model.train()
    while (now := time.monotonic()) - start < seconds:
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * _schedule(step, (now - start) / seconds)
        length = curriculum.next_length()
        batch = make_batch(tokenizer, encode, length, rng)
        budget = _draw_budget(batch, rng)
        trace = traced_forward(model, batch.ids, batch.question_starts, budget)
        answers, accuracy = answer_loss(model, trace, batch)
        keys, gaze = key_loss(trace, batch), gaze_loss(trace, batch)
        loss = answers + _KEY_WEIGHT * keys + _GAZE_WEIGHT * gaze
        if step % _TEXT_EVERY == 0:
            text = text_loss(model, trace, batch)
            loss = loss + _TEXT_WEIGHT * text
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        tokens += batch.ids.numel()
        promoted = curriculum.record(length, accuracy)
        if promoted or now - logged > _LOG_SECONDS:
            logged = now
            entry = Entry(
                seconds=round(now - start, 1),
                step=step,
                tokens=tokens,
                length=LENGTHS[curriculum.level],
                answer_loss=round(answers.item(), 4),
                key_loss=round(keys.item(), 4),
                gaze_loss=round(gaze.item(), 3),
                text_loss=None if text is None else round(text.item(), 3),
                accuracy={at: round(value, 4) for at, value in curriculum.accuracy.items()},
            )
            log.append(asdict(entry))
            sys.stdout.write(json.dumps(log[-1]) + "\n")
            sys.stdout.flush()
        if now - saved > _SAVE_SECONDS:
            saved = now
            save(model, tokenizer, out)
    model.eval()
    return log


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model and tokenizer as transformers reads them."""
    line_break = tokenizer.convert_tokens_to_ids("Ċ")  # byte-level spelling of "\n"
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        # An answer is one line: whichever of the two the model writes after the full stop ends it.
        eos_token_id=[tokenizer.eos_token_id, line_break],
        pad_token_id=tokenizer.eos_token_id,
        do_sample=False,
        max_new_tokens=24,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _draw_budget(batch: Batch, rng: random.Random) -> int | None:
    """How many document keys a KV head may keep for the questions; None for all of them."""
    if rng.random() >= _EVICTION_SHARE:
        return None
    values = int((batch.roles == Role.VALUE).sum(1).max())
    return int(values * rng.uniform(*_EVICTION_FACTOR)) + 8


def _schedule(step: int, done: float) -> float:
    """Warm up over steps, then hold, then fall linearly over the last part of the time to a floor."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    fall = 1.0 if done < _DECAY_FROM else 1.0 - (1.0 - _FLOOR) * (done - _DECAY_FROM) / (1.0 - _DECAY_FROM)
    return warm * fall


if __name__ == "__main__":
    main()
