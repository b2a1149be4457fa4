"""The rivals' side: `python kvpress_side.py MODEL RECORDS OUTCOMES`, run by an environment with kvpress.

Reads documents from RECORDS (see `records.py`) and appends one line of JSON to OUTCOMES for each document,
method and budget that is not there yet. Imports nothing of ours, so that the environment needs none of it.

The presses of kvpress prune after the attention of a layer was computed with all keys, so what they prune
does not change what the layers above see. One reading therefore serves all of them: `pruned` calls each
press's own `compress` with what kvpress' hook would pass to it. `literal` is kvpress' own way, in which a
record with `check` is read as well.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

TAIL = (
    64  # tokens of the document that are read again before a question, as SnapKV needs some before its window
)
Layers = list[tuple[Tensor, Tensor]]  # keys and values [1, H, T, D] of each layer
Lines = Iterator[tuple[str, str | None, list[dict[str, float]]]]


def presses(share: float) -> dict[str, Any]:
    """The presses that do not know the questions, set to remove all but `share`."""
    import kvpress

    ratio = 1 - share
    return {
        "kvpress: KeyDiffPress": kvpress.KeyDiffPress(ratio),
        "kvpress: SnapKVPress": kvpress.SnapKVPress(ratio),
        "kvpress: TOVAPress": kvpress.TOVAPress(ratio),
        "kvpress: ExpectedAttentionPress": kvpress.ExpectedAttentionPress(ratio),
    }


def asking_presses(share: float, window: int) -> dict[str, Any]:
    """The presses that see the last `window` tokens, which are questions."""
    import kvpress

    finch = kvpress.FinchPress(1 - share)
    finch.window_size = window
    return {
        "kvpress: SnapKVPress": kvpress.SnapKVPress(1 - share, window_size=window),
        "kvpress: FinchPress": finch,
    }


def share_of(kept: int, tokens: int) -> float:
    """The share for which kvpress keeps exactly `kept` of `tokens`, since it rounds down."""
    return (kept + 0.5) / tokens


@torch.inference_mode()
def measure(model: Any, record: dict[str, Any]) -> Lines:
    """Yield method, budget and how each forced answer was predicted.

    With `check` in the record also what kvpress' own way gives, under the method's name and "literally".
    """
    ids, questions, kept = record["ids"], record["questions"], record["kept"]
    whole = cache_of([])
    forward(model, whole, ids, 0)
    yield "full cache of transformers", None, [answer(model, whole, len(ids), full(q), q) for q in questions]
    yield from bm25(model, record)
    full_layers = layers_of(whole)
    yield from with_questions(model, full_layers, record)
    chosen = {
        (name, budget): press
        for budget, slots in kept.items()
        for name, press in presses(share_of(slots, len(ids))).items()
    }
    for (name, budget), layers in pruned(model, cache_of([]), ids, 0, chosen).items():
        small = cache_of(layers)
        predictions = [answer(model, small, len(ids), full(q), q) for q in questions]
        yield name, budget, predictions
        if record.get("check"):
            small = literal(model, chosen[name, budget], ids)
            again = [answer(model, small, len(ids), full(q), q) for q in questions]
            yield f"{name}, literally", budget, again

    yield from kvzip(model, full_layers, record)


def with_questions(model: Any, layers: Layers, record: dict[str, Any]) -> Lines:
    """Presses that see the questions behind the document: all of them, or one at a time.

    All questions leave one cache, about which each is asked again; with one question the answer goes on
    where it ended. What is kept of the document is the same; the questions are kept beside it.
    """
    ids, questions, kept = record["ids"], record["questions"], record["kept"]
    asking = {"all questions": [[token for q in questions for token in q["asked"]]]}
    asking["one question"] = [q["asked"] for q in questions]
    for sort, windows in asking.items():
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for number, window in enumerate(windows):
            tokens = len(ids) + len(window)
            chosen = {
                (name, budget): press
                for budget, slots in kept.items()
                for name, press in asking_presses(share_of(slots + len(window), tokens), len(window)).items()
            }
            cache = cache_of([(k[:, :, :-TAIL], v[:, :, :-TAIL]) for k, v in layers])
            for (name, budget), compressed in pruned(
                model, cache, ids[-TAIL:] + window, len(ids) - TAIL, chosen
            ).items():
                small = cache_of(compressed)
                # Finch rotates keys to their new places.
                start = small.get_seq_length() if "Finch" in name else tokens
                about = questions if sort == "all questions" else [questions[number]]
                for q in about:
                    context = full(q) if sort == "all questions" else q["opening"]
                    found.setdefault((name, budget), []).append(answer(model, small, start, context, q))
        for (name, budget), predictions in found.items():
            yield f"{name}, {sort}", budget, predictions


def kvzip(model: Any, layers: Layers, record: dict[str, Any]) -> Lines:
    """KVzip chooses over all heads and layers together, and kvpress masks what it removes."""
    import kvpress

    class Keeping(kvpress.KVzipPress):  # type: ignore[misc]
        """Keeps its scores, which serve every budget."""

        def compress_post(self, model: Any) -> None:
            self.scores = self.score_val.clone()
            super().compress_post(model)

    ids, questions = record["ids"], record["questions"]
    chunk = min(2048, record["window"] - len(ids) - TAIL)  # what is repeated has to fit the model's window
    shares = {budget: share_of(slots, len(ids)) for budget, slots in record["kept"].items()}
    press = Keeping(1 - next(iter(shares.values())), chunk_size=chunk)
    cache = literal(model, press, ids)
    for number, (budget, share) in enumerate(shares.items()):
        if number:
            cache = cache_of(layers)
            press.score_val, press.compression_ratio = press.scores.clone(), 1 - share
            kvpress.KVzipPress.compress_post(press, model)
        predictions = [answer(model, cache, len(ids), full(q), q) for q in questions]
        yield "kvpress: KVzipPress", budget, predictions
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None


def bm25(model: Any, record: dict[str, Any]) -> Lines:
    """The full cache of passages that BM25 finds, as many tokens as the others keep slots."""
    questions, prefix = record["questions"], record["prefix"]
    ranks = rankings([p["text"] for p in record["passages"]], [q["text"] for q in questions])
    for budget, slots in record["kept"].items():
        for sort, orders in (("all questions", [merged(ranks)]), ("one question", ranks)):
            predictions = []
            for number, order in enumerate(orders):
                ids = record["ids"][:prefix]
                for begin, end in selected(record["passages"], order, slots - prefix):
                    ids = ids + record["ids"][begin:end]
                cache = cache_of([])
                forward(model, cache, ids, 0)
                about = questions if sort == "all questions" else [questions[number]]
                predictions += [answer(model, cache, len(ids), full(q), q) for q in about]
            yield f"BM25 passages, {sort}", budget, predictions


def rankings(texts: list[str], queries: list[str]) -> list[list[int]]:
    """For each query the numbers of all texts, best first."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)
    found, _ = index.retrieve(asked, k=len(texts), show_progress=False)
    return [[int(number) for number in row] for row in found]


def merged(ranks: list[list[int]]) -> list[int]:
    """One order for all queries: the best text of each, then the second of each, and so on."""
    return list(dict.fromkeys(number for place in zip(*ranks, strict=True) for number in place))


def selected(passages: list[dict[str, Any]], order: list[int], room: int) -> list[tuple[int, int]]:
    """The best passages in the order of the text, `room` tokens in all; the last one chosen is cut off."""
    spans = []
    for number in order:
        begin, end = passages[number]["begin"], passages[number]["end"]
        end = min(end, begin + room)
        if end > begin:
            spans.append((begin, end))
            room -= end - begin
    return sorted(spans)


def full(question: dict[str, Any]) -> list[int]:
    """The question's tokens up to the answer."""
    return question["asked"] + question["opening"]


def pruned(model: Any, cache: Any, ids: list[int], start: int, chosen: dict[Any, Any]) -> dict[Any, Layers]:
    """Read `ids` after what is in the full cache, and prune the result with each press."""
    found: dict[Any, Layers] = {name: [] for name in chosen}

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        layer = cache.layers[module.layer_idx]
        for name, press in chosen.items():
            hidden = kwargs["hidden_states"]
            found[name].append(press.compress(module, hidden, layer.keys, layer.values, output[1], kwargs))

    hooks = []
    for layer in model.model.layers:
        layer.self_attn.rotary_emb = model.model.rotary_emb
        hooks.append(layer.self_attn.register_forward_hook(hook, with_kwargs=True))
    try:
        forward(model, cache, ids, start)
    finally:
        for registered in hooks:
            registered.remove()
    return found


def literal(model: Any, press: Any, ids: list[int]) -> Any:
    """The cache after reading `ids` as kvpress' pipeline does."""
    cache = DynamicCache()
    with press(model):
        model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
    return cache


def forward(model: Any, cache: Any, ids: list[int], start: int) -> Tensor:
    """Read `ids` from position `start` into the cache → hidden states [T, E]."""
    positions = torch.arange(start, start + len(ids))[None]
    states = model.model(input_ids=torch.tensor([ids]), past_key_values=cache, position_ids=positions)
    hidden: Tensor = states.last_hidden_state[0]
    return hidden


def answer(
    model: Any, cache: Any, start: int, context: list[int], question: dict[str, Any]
) -> dict[str, float]:
    """Predict each token of the answer, given those before it. The cache is left as it was."""
    before = [layer.keys.shape[2] for layer in cache.layers]
    gold = torch.tensor(question["gold"])
    fed = context + question["gold"][:-1]
    logits = model.lm_head(forward(model, cache, fed, start)[len(context) - 1 :]).float()
    for layer, length in zip(cache.layers, before, strict=True):
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    nll = torch.nn.functional.cross_entropy(logits, gold, reduction="sum")
    return {"tokens": len(gold), "right": int((logits.argmax(-1) == gold).sum()), "nll": float(nll)}


def cache_of(layers: Layers) -> Any:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def layers_of(cache: Any) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def main(place: str, records: Path, outcomes: Path) -> None:
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16, attn_implementation="sdpa")
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    done = set()
    if outcomes.exists():
        lines = (json.loads(line) for line in outcomes.read_text().splitlines())
        done = {line["document"] for line in lines if line.get("last") and line["code"] == code}
    for line in records.read_text().splitlines():
        record = json.loads(line)
        if record["sha256"] in done:
            continue
        found = [
            {"document": record["sha256"], "code": code, "method": method, "budget": budget, "forced": forced}
            for method, budget, forced in measure(model.eval(), record)
        ]
        found[-1]["last"] = True
        with outcomes.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
