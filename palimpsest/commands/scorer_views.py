"""Tables about scorers. A field that an older service does not send gives an empty cell."""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

Answer = dict[str, Any]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading))
    return table


def _add(table: Table, *cells: object) -> None:
    # Text, so that nothing the service sent is interpreted as markup.
    table.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))


def _when(moment: str | None) -> str:
    return (moment or "")[:19].replace("T", " ")


def versions(scorers: Sequence[Answer]) -> Table:
    """Every version of every scorer."""
    table = _table("scorer", "state", "sha256", "uploaded")
    for scorer in scorers:
        for one in scorer.get("data", []):
            label = f"{scorer.get('name')}@{one.get('version')}"
            _add(table, label, one.get("state"), (one.get("sha256") or "")[:12], _when(one.get("created_at")))
    return table


def version(label: str, found: Answer) -> Table:
    """The details of a version."""
    table = _table("", label)
    manifest = found.get("manifest") or {}
    for name, value in (
        ("state", found.get("state")),
        (
            "rejection reason" if found.get("state") == "rejected" else "postponed because",
            found.get("reason"),
        ),
        ("kind", found.get("kind")),
        ("sha256", found.get("sha256")),
        ("uploaded", f"{_when(found.get('created_at'))} by {found.get('created_by')}"),
        ("checked", _when(found.get("checked_at"))),
        *(("serves", _serving(one)) for one in found.get("activations") or []),
        ("evolved with", _words(manifest.get("regime"))),
        ("serves with", _words(manifest.get("serving"))),
        *(("evaluation", line) for line in _scores(label, found.get("sha256"), found.get("evaluation"))),
    ):
        if value:
            _add(table, name, value)
    return table


def _serving(activation: Answer) -> str:
    words = f"{activation.get('scope')}, {activation.get('alias')}"
    if activation.get("alias") != "canary":
        return words
    bounds = _words(activation.get("bounds"))
    shares = f"{activation.get('percent')} %, shadow {activation.get('shadow_percent', 0)} %"
    return f"{words}, {shares}" + (f", guardrails {bounds}" if bounds else "")


def _words(entries: Answer | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (entries or {}).items() if value is not None)


def _scores(label: str, sha256: str | None, evaluation: Answer | None) -> list[str]:
    """One line for each budget that the version was evaluated with, or one that says why there is none.

    Rows whose hash belongs to another file of the same name and version are left out.
    """
    if not evaluation:
        return []
    named = [row for row in evaluation.get("rows", []) if row.get("scorer") == label]
    if not named:
        return [f"attached; it has no row of {label}"]
    mine = [row for row in named if sha256 is None or row.get("scorer_sha256") in (None, sha256)]
    if not mine:
        return [f"attached, but its rows of {label} belong to another file of that name and version"]
    return [
        f"{_percent(row.get('score'))} score, {_percent(row.get('of_full'))} of the full cache, "
        f"budget {row.get('budget')}"
        for row in mine
    ]


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def has_figures(outcome: Answer) -> bool:
    """Whether a version has any figures in the period."""
    jobs, shadow = outcome.get("jobs") or {}, outcome.get("shadow") or {}
    return any(jobs.values()) or bool(outcome.get("money")) or bool(shadow.get("runs"))


def outcomes(found: Sequence[Answer]) -> Table:
    """A column for each version, a row for each figure."""
    table = _table("", *(str(one.get("scorer")) for one in found))
    for column in table.columns[1:]:
        column.justify = "right"
    rows: list[tuple[str, Callable[[Answer], object]]] = [
        ("state", lambda one: one.get("state") or "not in the registry"),
        ("jobs succeeded", lambda one: _part(one, "jobs", "succeeded")),
        ("jobs failed", lambda one: _part(one, "jobs", "failed")),
        ("failure rate", lambda one: _rate(one.get("failure_rate"))),
        (
            "cancelled, expired",
            lambda one: f"{_part(one, 'jobs', 'cancelled')}, {_part(one, 'jobs', 'expired')}",
        ),
        ("kept", lambda one: _share(one.get("kept"))),
        ("device seconds", lambda one: _number(one.get("device_seconds"))),
        ("scorer's share of them", lambda one: _share(one.get("score_share"))),
        ("known quality", lambda one: _share(one.get("scorer_quality"))),
        ("shadow runs", lambda one: _part(one, "shadow", "runs")),
        ("failed shadow runs", lambda one: _part(one, "shadow", "failed")),
        ("skipped shadow runs", lambda one: _part(one, "shadow", "not_made")),
        ("agreement", lambda one: _rate((one.get("shadow") or {}).get("agreement"))),
    ]
    for heading, cell in rows:
        _add(table, heading, *map(cell, found))
    for currency in sorted({money["currency"] for one in found for money in one.get("money") or []}):
        for heading, cell in _money_rows(currency):
            _add(table, heading, *map(cell, found))
    scores = [
        "\n".join(_scores(str(one.get("scorer")), one.get("sha256"), one.get("evaluation"))) for one in found
    ]
    if any(scores):
        _add(table, "evaluation", *scores)
    return table


def _money_rows(currency: str) -> Iterable[tuple[str, Callable[[Answer], object]]]:
    def amount(one: Answer, name: str) -> Decimal | None:
        for money in one.get("money") or []:
            if money["currency"] == currency and money.get(name) is not None:
                return Decimal(money[name])
        return None

    def a_job(one: Answer) -> str:
        cost, jobs = amount(one, "cost"), sum((one.get("jobs") or {}).values())
        return "" if cost is None or not jobs else f"{cost / jobs:.6f}"

    def plain(name: str) -> Callable[[Answer], object]:
        return lambda one: _number(amount(one, name))

    yield f"cost, {currency}", plain("cost")
    yield f"cost per job, {currency}", a_job
    yield f"allocated saving, {currency}", plain("saving_allocated")
    yield f"realised saving, {currency}", plain("saving_realised")


def _part(outcome: Answer, name: str, key: str) -> object:
    return (outcome.get(name) or {}).get(key, 0)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _rate(rate: Answer | None) -> str:
    return "" if rate is None else f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def _number(value: str | Decimal | None) -> str:
    return "" if value is None else f"{Decimal(value):,.6f}".rstrip("0").rstrip(".")


def rollout(activations: Sequence[Answer]) -> Table:
    """A row for each activation and worker."""
    table = _table("scorer", "scope", "alias", "worker", "host", "loaded", "since", "error")
    for one in activations:
        activation = one.get("activation") or one
        label = one.get("desired") or activation.get("scorer")
        place = (label, activation.get("scope"), activation.get("alias"))
        for worker in one.get("workers") or [{"worker_id": "no live worker"}]:
            name = worker.get("worker_id") or worker.get("id") or worker.get("worker")
            has, since = worker.get("scorer"), _when(worker.get("loaded_at"))
            _add(table, *place, name, worker.get("host"), has, since, worker.get("error"))
    return table


def audit(entries: Sequence[Answer]) -> Table:
    """A row for each change."""
    table = _table("time", "actor", "action", "subject", "")
    for one in entries:
        detail = _words(one.get("detail"))
        _add(table, _when(one.get("at")), one.get("actor"), one.get("action"), one.get("subject"), detail)
    return table
