"""Documents and questions as token ids, which both sides read from one file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from namm_runtime.engine.forced import _tokens as lead_and_gold
from namm_runtime.evaluate.budget import Budget
from namm_runtime.evaluate.document import Document
from namm_runtime.model.encoding import encode
from namm_runtime.model.loading import LoadedModel
from namm_runtime.tasks.item import Item

INTERVAL = 512  # tokens between evictions
SHORTEST, LONGEST = 64, 128  # tokens of a passage
Record = dict[str, Any]


def record(model: LoadedModel, document: Document, budgets: list[Budget]) -> Record:
    """What a rival needs of a document, and nothing that only we know how to make.

    `ids` begin with the `prefix` tokens of the chat template; `passages` divide what follows them. `kept`
    says how many slots a head each budget leaves. Of each question `asked` are the tokens up to the end of
    the user's turn, `opening` those from there to the answer, and `gold` the answer's.
    """
    prefix = len(model.frame.prefix)
    ids = model.encode(document.text)[0].tolist()
    made: Record = {
        "prefix": prefix,
        "ids": ids,
        "passages": passages(model, document.text, prefix),
        "kept": {budget.label: budget.slots_for(len(ids) - prefix, prefix, INTERVAL) for budget in budgets},
        "questions": [_question(model, item) for item in questions(document)],
        "window": model.window,
    }
    made["sha256"] = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return made


def questions(document: Document) -> list[Item]:
    """Those that may be known before the document is read and have a forced answer."""
    return [item for item in document.items if item.asked and item.forced]


def _question(model: LoadedModel, item: Item) -> Record:
    assert item.forced is not None
    prompt = model.frame.prompt_ids(model.tokenizer, item.input)
    after = len(encode(model.tokenizer, model.frame.after, control=True)["input_ids"])
    asked, ending = prompt[: len(prompt) - after], prompt[len(prompt) - after :]
    lead = item.forced.lead if model.frame.templated else f"\n{item.forced.lead}"  # as `predict_answer` does
    lead_ids, gold = lead_and_gold(model, lead, item.forced.gold)
    return {"task": item.task, "text": item.input, "asked": asked, "opening": ending + lead_ids, "gold": gold}


def passages(model: LoadedModel, text: str, prefix: int) -> list[Record]:
    """The text in pieces of 64 to 128 tokens, which end with a line or else a sentence where there is one.

    `begin` and `end` count tokens of the document, those of the chat template included.
    """
    encoded = encode(model.tokenizer, text, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    found, begin = [], 0
    while begin < len(ends):
        end = min(_end(text, ends, begin), len(ends))
        first = ends[begin - 1] if begin else 0
        found.append({"begin": prefix + begin, "end": prefix + end, "text": text[first : ends[end - 1]]})
        begin = end
    return found


def _end(text: str, ends: list[int], begin: int) -> int:
    """Where a passage that begins at token `begin` ends."""
    candidates = range(min(begin + LONGEST, len(ends)), begin + SHORTEST - 1, -1)
    for mark in ("\n", "."):
        for end in candidates:
            if text[: ends[end - 1]].endswith(mark):
                return end
    return begin + LONGEST


def write(path: Path, records: list[Record]) -> None:
    """One line of JSON per document."""
    path.write_text("".join(json.dumps(made) + "\n" for made in records))


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]
