"""A bulk job's results: `documents.jsonl` with a line for each document, `digest.md` and `totals.json`.

The files depend on the results only: writing them again gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, Any

from store.answers import risk_of
from store.billing.reports import METRICS
from store.blobs import Blobs
from store.bulk.results import Line, Spent
from store.tables.bulk import Bulk

DOCUMENTS, DIGEST, TOTALS = "documents.jsonl", "digest.md", "totals.json"
FILES = (DOCUMENTS, DIGEST, TOTALS)
Pages = Callable[[], Iterator[Line]]

_LABELS = {name: METRICS[name].measurement for name in ("cost", "saving_allocated", "saving_realised")}
_OF_ALL = "All documents"


@dataclass(frozen=True)
class Digest:
    """The summary of all summaries, or the reason there is none."""

    answers: Sequence[dict[str, Any]] = ()
    missing: str | None = None


@dataclass(frozen=True)
class BundleInputs:
    """Everything a bundle is made of, except its lines."""

    bulk: Bulk
    counts: dict[str, int]
    spent: list[Spent]
    digest: Digest | None  # None if none was requested
    gone: list[str]
    summary_prompts: int


def folder_of(bulk: Bulk) -> str:
    """The folder of the bundle's blobs. A retry writes to another one, so readers never see a mixture."""
    return f"bundles/{bulk.tenant_id}/{bulk.id}/{bulk.round}"


def write(blobs: Blobs, inputs: BundleInputs, pages: Pages) -> str:
    """Writes the three files; returns the folder's key."""
    folder = folder_of(inputs.bulk)
    noted = Noted()
    with blobs.create(f"{folder}/{DOCUMENTS}") as file:
        for line in pages():
            file.write(_json(_entry(inputs, line)))
            noted.add(line)
    with blobs.create(f"{folder}/{DIGEST}") as file:
        for text in _markdown(inputs, pages):
            file.write(text.encode())
    with blobs.create(f"{folder}/{TOTALS}") as file:
        _write_totals(file, inputs, noted)
    return folder


@dataclass
class Noted:
    """How many documents have an answer at risk, and each warning."""

    at_risk: int = 0
    warnings: Counter[str] = field(default_factory=Counter)

    def add(self, line: Line) -> None:
        self.at_risk += any(map(risk_of, line.answers))
        self.warnings.update({warning["code"] for warning in _warnings(line)})


def _warnings(line: Line) -> list[dict[str, str]]:
    found: list[dict[str, str]] = (line.usage or {}).get("warnings", [])
    return found


def _write_totals(file: IO[bytes], inputs: BundleInputs, noted: Noted) -> None:
    bulk = inputs.bulk
    totals = {
        "bulk_id": bulk.id,
        "collection": bulk.collection_name,
        "strategy": bulk.strategy,
        "documents": sum(inputs.counts.values()),
        "states": dict(sorted(inputs.counts.items())),
        "gone": inputs.gone,
        "at_risk": noted.at_risk,
        "warnings": dict(sorted(noted.warnings.items())),
        "digest": None if inputs.digest is None else {"made": inputs.digest.missing is None},
        "spent": [_spent(one) for one in inputs.spent],
    }
    file.write(json.dumps(totals, indent=1, ensure_ascii=False).encode() + b"\n")


def _entry(inputs: BundleInputs, line: Line) -> dict[str, Any]:
    first, rest = line.answers[: inputs.summary_prompts], line.answers[inputs.summary_prompts :]
    return {
        "path": line.path,
        "document_id": line.document_id,
        "sha256": line.sha256,
        "state": line.state,
        "job_id": line.job_id,
        "strategy": "map_reduce" if line.parts else "whole",
        "parts": line.parts or None,
        "summary": [answer["text"] for answer in first],
        "points": [point for answer in first for point in answer.get("points") or ()],
        "answers": [{"prompt": answer["prompt"], "text": answer["text"], **_risk(answer)} for answer in rest],
        "summary_risks": [_risk(answer) for answer in first],
        "repeated": [answer["prompt"] for answer in line.answers if _repeated(answer)],
        "complete": line.complete,
        "policy": line.policy,
        "policy_reason": line.policy_reason,
        "reading": (line.usage or {}).get("reading"),
        "warnings": _warnings(line),
        "model_revision": line.model_revision,
        "scorer": line.scorer,
        "scorer_sha256": line.scorer_sha256,
        "usage": line.usage,
        "spent": [_spent(one) for one in line.spent],
        "error": {"code": line.error_code, "message": line.error_message} if line.error_code else None,
    }


def _risk(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "guided": answer.get("guided", False),
        "evicted_attention": answer.get("evicted_attention"),
        "at_risk": answer.get("at_risk", False),
    }


def _spent(spent: Spent) -> dict[str, Any]:
    """Amounts as decimal strings, each with how it was determined."""
    return {
        "currency": spent.currency,
        "cost": _figure(spent.cost, "cost"),
        "saving_allocated": _figure(spent.allocated_saving, "saving_allocated"),
        "saving_realised": _figure(spent.realised_saving, "saving_realised"),
        "device_seconds": f"{spent.device_seconds:f}",
        "tokens_document": int(spent.tokens_document),
        "tokens_kept": int(spent.tokens_kept),
        "tokens_generated": int(spent.tokens_generated),
        "peak_bytes_max": spent.peak_bytes,
        "dense_bytes_max": spent.dense_bytes,
    }


def _figure(amount: Decimal | None, metric: str) -> dict[str, str | None]:
    return {"value": None if amount is None else f"{amount:f}", "measurement": _LABELS[metric]}


def _json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# The digest -------------------------------------------------------------------------------------------


def _markdown(inputs: BundleInputs, pages: Pages) -> Iterator[str]:
    bulk, counts = inputs.bulk, inputs.counts
    done, total = counts.get("succeeded", 0), sum(counts.values())
    yield f"# {_plain(bulk.collection_name or bulk.id)}\n\n"
    yield f"{done} of {total} documents done"
    others = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if state != "succeeded")
    yield f" ({others}).\n" if others else ".\n"
    if bulk.strategy == "map_reduce":
        yield "Long documents were read in parts; each summary combines the summaries of the parts.\n"
    if inputs.gone:
        yield "\nNo longer in the collection: " + ", ".join(_plain(path) for path in inputs.gone) + ".\n"
    if inputs.digest is not None:
        yield f"\n## {_OF_ALL}\n\n"
        if inputs.digest.missing is not None:
            yield f"There is no summary of all documents: {inputs.digest.missing}\n"
        else:
            yield "Written by the model from the summaries below.\n\n"
            yield from _answered(inputs.digest.answers, len(inputs.digest.answers), places=False)
    for line in pages():
        yield f"\n## {_plain(line.path)}\n\n"
        if line.error_code is not None:
            yield f"**{line.state}**: `{line.error_code}` – {_plain(line.error_message or '')}\n\n"
        if line.parts:
            yield f"Read in {line.parts} parts.\n\n"
        yield from _answered(line.answers, inputs.summary_prompts, places=True)
        for warning in _warnings(line):
            yield f"\nWarning `{warning['code']}`: {_plain(warning['message'])}\n"
    yield from _costs(inputs)


def _answered(answers: Sequence[dict[str, Any]], summary_prompts: int, *, places: bool) -> Iterator[str]:
    for answer in answers[:summary_prompts]:
        points = answer.get("points")
        if points is None:
            yield f"{_plain(answer['text'])}\n"
        for point in points or ():
            yield f"- {_plain(point['text'])}{_place(point) if places else ''}\n"
        if _repeated(answer):
            yield "\n*(stopped: the answer repeated itself)*\n"
        yield from _told(answer)
    for answer in answers[summary_prompts:]:
        mark = " *(stopped: the answer repeated itself)*" if _repeated(answer) else ""
        yield f"\n**{_plain(answer['prompt'])}** {_plain(answer['text'])}{mark}\n"
        yield from _told(answer)


def _repeated(answer: dict[str, Any]) -> bool:
    """Whether the answer was ended because it went into a loop."""
    return answer.get("finish_reason") == "repetition"


def _told(answer: dict[str, Any]) -> Iterator[str]:
    if risk := risk_of(answer):
        yield f"\n*{risk}*\n"


def _place(point: dict[str, Any]) -> str:
    if point["start"] is None:
        return " *(unlocated)*"
    page = f"p. {point['page']}, " if point["page"] is not None else ""
    near = "" if point["located"] else "near "
    return f" *({near}{page}line {point['line']})*"


def _costs(inputs: BundleInputs) -> Iterator[str]:
    yield "\n## What it cost\n\n"
    if not inputs.spent:
        yield "Nothing was billed.\n"
        return
    yield "| | | how it was determined |\n|---|---|---|\n"
    for spent in inputs.spent:
        rows = [
            ("Cost", spent.cost, "cost"),
            (
                "Saved: value of the memory that the smaller cache left free",
                spent.allocated_saving,
                "saving_allocated",
            ),
            ("Saved compared with measured full caches", spent.realised_saving, "saving_realised"),
        ]
        for name, amount, metric in rows:
            shown = "unknown" if amount is None else f"{amount:f} {spent.currency}"
            yield f"| {name} | {shown} | {_LABELS[metric]} |\n"
        yield f"| Device time | {spent.device_seconds:f} s | measured |\n"
        yield f"| Tokens read | {int(spent.tokens_document):,} | measured |\n"


def _plain(text: str) -> str:
    """The text on one line, with Markdown's special characters escaped."""
    line = " ".join(text.split())
    for mark in ("\\", "*", "_", "`", "[", "]", "<", ">", "#", "|"):
        line = line.replace(mark, f"\\{mark}")
    return line
