"""What a bulk job leaves: `documents.jsonl`, a line for each document, `digest.md` to read, `totals.json`.

The same results give the same files, whoever writes them and how often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any

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
    """The summary of the summaries, or why there is none."""

    answers: Sequence[dict[str, Any]] = ()
    missing: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a bundle is made of besides its lines."""

    bulk: Bulk
    counts: dict[str, int]
    spent: list[Spent]
    digest: Digest | None  # None where none was wanted
    gone: list[str]
    summary_prompts: int


def folder_of(bulk: Bulk) -> str:
    """Where the bundle's blobs lie; a retry writes to another place, so nobody reads half of either."""
    return f"bundles/{bulk.tenant_id}/{bulk.id}/{bulk.round}"


def write(blobs: Blobs, facts: Facts, pages: Pages) -> str:
    """Writes the three files; gives the folder's key."""
    folder = folder_of(facts.bulk)
    with blobs.create(f"{folder}/{DOCUMENTS}") as file:
        for line in pages():
            file.write(_json(_entry(facts, line)))
    with blobs.create(f"{folder}/{DIGEST}") as file:
        for text in _markdown(facts, pages):
            file.write(text.encode())
    with blobs.create(f"{folder}/{TOTALS}") as file:
        _write_totals(file, facts)
    return folder


def _write_totals(file: IO[bytes], facts: Facts) -> None:
    bulk = facts.bulk
    totals = {
        "bulk_id": bulk.id,
        "collection": bulk.collection_name,
        "strategy": bulk.strategy,
        "documents": sum(facts.counts.values()),
        "states": dict(sorted(facts.counts.items())),
        "gone": facts.gone,
        "digest": None if facts.digest is None else {"made": facts.digest.missing is None},
        "spent": [_spent(one) for one in facts.spent],
    }
    file.write(json.dumps(totals, indent=1, ensure_ascii=False).encode() + b"\n")


def _entry(facts: Facts, line: Line) -> dict[str, Any]:
    first, rest = line.answers[: facts.summary_prompts], line.answers[facts.summary_prompts :]
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
        "answers": [{"prompt": answer["prompt"], "text": answer["text"]} for answer in rest],
        "complete": line.complete,
        "model_revision": line.model_revision,
        "scorer": line.scorer,
        "scorer_sha256": line.scorer_sha256,
        "usage": line.usage,
        "spent": [_spent(one) for one in line.spent],
        "error": {"code": line.error_code, "message": line.error_message} if line.error_code else None,
    }


def _spent(spent: Spent) -> dict[str, Any]:
    """Amounts as decimal strings, with how they are known."""
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


def _markdown(facts: Facts, pages: Pages) -> Iterator[str]:
    bulk, counts = facts.bulk, facts.counts
    done, total = counts.get("succeeded", 0), sum(counts.values())
    yield f"# {_plain(bulk.collection_name or bulk.id)}\n\n"
    yield f"{done} of {total} documents done"
    others = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if state != "succeeded")
    yield f" ({others}).\n" if others else ".\n"
    if bulk.strategy == "map_reduce":
        yield "Long documents were read in parts; their summaries are summaries of the parts' summaries.\n"
    if facts.gone:
        yield "\nNo longer there: " + ", ".join(_plain(path) for path in facts.gone) + ".\n"
    if facts.digest is not None:
        yield f"\n## {_OF_ALL}\n\n"
        if facts.digest.missing is not None:
            yield f"There is no summary of all documents: {facts.digest.missing}\n"
        else:
            yield "Made by the model from the summaries below.\n\n"
            yield from _answered(facts.digest.answers, len(facts.digest.answers), places=False)
    for line in pages():
        yield f"\n## {_plain(line.path)}\n\n"
        if line.error_code is not None:
            yield f"**{line.state}**: `{line.error_code}` – {_plain(line.error_message or '')}\n\n"
        if line.parts:
            yield f"Read in {line.parts} parts.\n\n"
        yield from _answered(line.answers, facts.summary_prompts, places=True)
    yield from _costs(facts)


def _answered(answers: Sequence[dict[str, Any]], summary_prompts: int, *, places: bool) -> Iterator[str]:
    for answer in answers[:summary_prompts]:
        points = answer.get("points")
        if points is None:
            yield f"{_plain(answer['text'])}\n"
        for point in points or ():
            yield f"- {_plain(point['text'])}{_place(point) if places else ''}\n"
    for answer in answers[summary_prompts:]:
        yield f"\n**{_plain(answer['prompt'])}** {_plain(answer['text'])}\n"


def _place(point: dict[str, Any]) -> str:
    if not point["located"]:
        return " *(unlocated)*"
    page = f"p. {point['page']}, " if point["page"] is not None else ""
    return f" *({page}line {point['line']})*"


def _costs(facts: Facts) -> Iterator[str]:
    yield "\n## What it cost\n\n"
    if not facts.spent:
        yield "Nothing was booked.\n"
        return
    yield "| | | how it is known |\n|---|---|---|\n"
    for spent in facts.spent:
        rows = [
            ("Cost", spent.cost, "cost"),
            (
                "Saved, by what the smaller cache left free",
                spent.allocated_saving,
                "saving_allocated",
            ),
            ("Saved against measured full caches", spent.realised_saving, "saving_realised"),
        ]
        for name, amount, metric in rows:
            shown = "not known" if amount is None else f"{amount:f} {spent.currency}"
            yield f"| {name} | {shown} | {_LABELS[metric]} |\n"
        yield f"| Device time | {spent.device_seconds:f} s | measured |\n"
        yield f"| Tokens read | {int(spent.tokens_document):,} | measured |\n"


def _plain(text: str) -> str:
    """On one line, with nothing in it that Markdown would take for more than text."""
    line = " ".join(text.split())
    for mark in ("\\", "*", "_", "`", "[", "]", "<", ">", "#", "|"):
        line = line.replace(mark, f"\\{mark}")
    return line
