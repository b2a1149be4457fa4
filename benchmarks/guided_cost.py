"""What guided reading costs: the time of intervals with and without prompts, once all slots are full.

`python -m benchmarks.guided_cost '{"model": "smollm2-135m", "policy": "keydiff", "prompts": 6}'` prints one
JSON row. Two memories read the same text, interval by interval in turns, so that a busy machine slows both.
"""

import json
import statistics
import sys
import time
from typing import Any

from namm_runtime import policies
from namm_runtime.engine.memory import CHUNK, TURN_SHARE, Memory
from namm_runtime.machine import machine
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.scorer import checkpoint
from namm_runtime.tasks.documents import make_document

BUDGET = 2048
FULL = 5  # intervals until all slots are full and all prompts have passed through the model


def measure(model: str, policy: str, prompts: int, intervals: int = 8) -> dict[str, Any]:
    """Time `intervals` intervals with that many prompts and with none; medians."""
    loaded = load_model(model)
    asked = [
        f"What is the amount of invoice {4821 + number} from the Lisbon office?" for number in range(prompts)
    ]
    open_, guided = _memory(loaded, policy, []), _memory(loaded, policy, asked)
    text = make_document((FULL + intervals) * CHUNK * 8, 0, seed=1, filler="stdlib").text
    ids = loaded.encode(text)[:, : (FULL + intervals) * CHUNK]
    seconds: dict[str, list[float]] = {"open": [], "guided": []}
    for piece in ids.split(CHUNK, dim=1):
        for name, memory in (("open", open_), ("guided", guided)):
            begun = time.perf_counter()
            memory.feed(piece)
            seconds[name].append(time.perf_counter() - begun)
    read = {name: statistics.median(times[FULL:]) for name, times in seconds.items()}
    guide = guided.context.guide
    return {
        "model": model,
        "policy": policy,
        "budget": BUDGET,
        "interval": CHUNK,
        "prompts": prompts,
        "prompt_tokens": guide.whole[1] if guide else 0,
        "turn_tokens": CHUNK // TURN_SHARE,
        "turns": len(guide.turns) if guide else 0,
        "open_seconds": round(read["open"], 4),
        "guided_seconds": round(read["guided"], 4),
        "probe_share": round(1 - read["open"] / read["guided"], 4),
        "machine": machine(),
    }


def _memory(model: LoadedModel, policy: str, prompts: list[str]) -> Memory:
    bundled = policies.scorer_of(policy)
    scorer = checkpoint.load(checkpoint.resolve(bundled).path) if bundled else None
    ids = [model.frame.prompt_ids(model.tokenizer, prompt) for prompt in prompts]
    return Memory(model, policies.make(policy, BUDGET, scorer), BUDGET, CHUNK, prompts=ids)


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))  # noqa: T201
