"""Both sides on the same documents, and the rows of the table."""

import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.labels import Row
from benchmarks.peers import environment, ours, records
from benchmarks.peers.records import Record
from namm_runtime.evaluate import bootstrap
from namm_runtime.evaluate.bootstrap import ScoreTable
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.estimates import difference, estimated
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.suite import load
from namm_runtime.machine import machine
from namm_runtime.model.loading import load_model
from namm_runtime.model.source import locate

REFERENCE = {"nothing": "ours, open: keydiff"}  # what a method is compared with, by what it knows
REFERENCE |= dict.fromkeys(("all questions", "one question"), "ours, guided: keydiff")
OURS_FULL, THEIR_FULL = "ours: full", "full cache of transformers"
FACT = "fact"  # questions that one planted sentence answers; the others need several
Say = Callable[[str], None]
Forced = list[dict[str, float]]
Found = dict[tuple[str, str | None], list[Forced | None]]


def compare(name: str, lengths: list[int], count: int, shares: str, journal: Path, say: Say) -> list[Row]:
    """Measure both sides on `count` documents of each length → the rows of the table.

    Args:
        name: the model.
        shares: of a document's tokens that are kept, with commas between them.
        journal: finished work of our side; that of the other side is beside it. An interrupted run resumes.
    """
    interpreter = environment.python()
    model = load_model(name, dtype="bfloat16")
    documents = _documents(load(("real",), model.tokenizer, count), lengths)
    outcomes = journal.with_suffix(".kvpress.jsonl")
    made, lines = [], []
    with tempfile.TemporaryDirectory() as directory:
        for number, document in enumerate(documents):
            say(f"document {number + 1} of {len(documents)}, {document.length:,} tokens")
            made.append(records.record(model, document, ours.budgets(shares)))
            file = Path(directory) / "records.jsonl"
            records.write(file, [made[-1] | {"check": number == 0}])
            if not _finished(outcomes, made[-1]):
                command = [interpreter, environment.SCRIPT, locate(name).place, file, outcomes]
                subprocess.run([str(part) for part in command], check=True)
            lines += ours.measure(model, document, Path(directory), made[-1], Journal(journal))
    lines += records.read(outcomes)  # later lines replace those of earlier versions of the script
    facts = {
        "model": model.name,
        "dtype": model.dtype,
        "documents": len(documents),
        "questions": sum(len(record["questions"]) for record in made),
        "lengths": lengths,
        "versions": environment.versions(interpreter),
        "machine": machine(),
    }
    return [row | facts for row in rows(documents, made, lines)]


def _documents(loaded: list[Document], lengths: list[int]) -> list[Document]:
    """Those of the lengths, one of each at a time, so that an interrupted run has some of each."""
    by_length = [[document for document in loaded if document.length == length] for length in lengths]
    return [document for same in zip(*by_length, strict=True) for document in same]


def _finished(outcomes: Path, record: Record) -> bool:
    """Whether the other side is done with a document, so that it need not start."""
    code = hashlib.sha256(environment.SCRIPT.read_bytes()).hexdigest()
    lines = records.read(outcomes) if outcomes.exists() else []
    return any(
        line["document"] == record["sha256"] and line["code"] == code and line.get("last") for line in lines
    )


def rows(documents: list[Document], made: list[Record], lines: list[Record]) -> list[Row]:
    """One row per method and budget: answers that are right, nats an answer, and the difference to ours.

    Args:
        made: the record of each document.
        lines: of both sides, in any order.
    """
    places = {record["sha256"]: number for number, record in enumerate(made)}
    found: Found = {}
    for line in lines:
        if line["document"] in places:
            forced = found.setdefault((line["method"], line["budget"]), [None] * len(made))
            forced[places[line["document"]]] = line["forced"]
    strata = [document.length for document in documents]
    literal = {key: found.pop(key) for key in list(found) if key[0].endswith(", literally")}
    result = []
    for (method, budget), forced in found.items():
        known = knows(method)
        score = _table(forced)
        reference = found.get((REFERENCE[known], budget))
        minus = None
        if reference is not None and reference is not forced:
            minus = difference(bootstrap.difference(score, _table(reference), strata))
        result.append(
            {
                "method": method,
                "budget": budget,
                "knows": known,
                **estimated("right", bootstrap.score(score, strata), counted=False),
                "right_facts": _right(made, forced, facts=True),
                "right_several": _right(made, forced, facts=False),
                "nats": _nats(forced),
                "minus_ours": minus,
            }
        )
        if method == THEIR_FULL:
            result[-1]["same_as_ours"] = agreement(found[OURS_FULL, None], forced)
        if (f"{method}, literally", budget) in literal:
            result[-1]["same_literally"] = agreement(literal[f"{method}, literally", budget], forced)
    return result


def knows(method: str) -> str:
    """What a method knows of the questions while it chooses: nothing, all questions, or one question."""
    if method.startswith("ours, guided"):
        return "all questions"
    return next((sort for sort in ("all questions", "one question") if method.endswith(sort)), "nothing")


def agreement(one: list[Forced | None], other: list[Forced | None]) -> Row:
    """On how many answers two methods agree, and how far their nats are apart at most."""
    pairs = [pair for a, b in zip(one, other, strict=True) if a and b for pair in zip(a, b, strict=True)]
    return {
        "answers": len(pairs),
        "same": sum(_exact(a) == _exact(b) for a, b in pairs),
        "nats_apart": round(max((abs(a["nll"] - b["nll"]) for a, b in pairs), default=0.0), 4),
    }


def _exact(forced: dict[str, float]) -> bool:
    return forced["right"] == forced["tokens"]


def _table(forced: list[Forced | None]) -> ScoreTable:
    """[D, 1] right answers and questions of each document."""
    sums = [[float(sum(map(_exact, answers or ())))] for answers in forced]
    counts = [[len(answers or ())] for answers in forced]
    return ScoreTable(np.array(sums), np.array(counts))


def _right(made: list[Record], forced: list[Forced | None], facts: bool) -> str:
    """ "3 of 5": right answers to questions that one sentence answers, or to the others."""
    exact = [
        _exact(answer)
        for record, answers in zip(made, forced, strict=True)
        for question, answer in zip(record["questions"], answers or (), strict=bool(answers))
        if (question["task"] == FACT) == facts
    ]
    return f"{sum(exact)} of {len(exact)}"


def _nats(forced: list[Forced | None]) -> float:
    nll = [answer["nll"] for answers in forced for answer in answers or ()]
    return round(sum(nll) / len(nll), 3)
