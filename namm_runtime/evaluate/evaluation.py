"""The evaluation grid: every document under every policy and budget, in one process or several."""

from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from namm_runtime.errors import Refusal
from namm_runtime.evaluate.budget import Budget
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.report import FORMAT, Cell, rows
from namm_runtime.evaluate.suite import Document, load
from namm_runtime.evaluate.unit import PolicySpec, Unit
from namm_runtime.machine import machine
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.model.token_stream import counted
from namm_runtime.process_pool import ProcessPool


@dataclass(frozen=True)
class Settings:
    """What to evaluate.

    Attributes:
        tasks: names of suites, TOML files, JSONL files.
        interval: tokens between evictions.
        positions: as in a `Request`; the same for every policy, whatever a scorer's manifest says.
        limit: maximum number of documents per task.
        max_output_tokens: per answer; None for the suite's or benchmark's own.
        processes: if more than one, each has one thread.
    """

    tasks: tuple[str, ...]
    policies: tuple[PolicySpec, ...]
    budgets: tuple[Budget, ...]
    model: str = "bundled"
    interval: int = 512
    positions: str = "cache-relative"
    limit: int | None = None
    max_output_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    processes: int = 1


@dataclass
class Evaluation:
    """A grid of units and the finished ones.

    Args:
        journal: stores finished units; those already in it are not repeated.

    Raises (on construction):
        Refusal: `bad_request`, `bad_tasks`, `bad_suite`, `bad_budget`, `model_…`.
    """

    settings: Settings
    journal: Journal
    model: LoadedModel = field(init=False)
    documents: list[Document] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        labels = [spec.label for spec in settings.policies] + [budget.label for budget in settings.budgets]
        if len(set(labels)) < len(labels):
            raise Refusal("bad_request", f"policies and budgets must not be repeated: {', '.join(labels)}")
        if settings.processes > 1:
            torch.set_num_threads(1)
        self.model = load_model(settings.model, device=settings.device, dtype=settings.dtype)
        self.documents = load(settings.tasks, self.model.tokenizer, settings.limit)
        self._directory = TemporaryDirectory(prefix="namm-evaluate-")
        self._files = [self._write(document) for document in self.documents]
        prefix = len(self.model.frame.prefix)
        self._tokens = [max(counted(file, self.model.tokenizer), default=0) for file in self._files]
        # Document by document, so that an interrupted run leaves comparable rows.
        self.units = {
            (spec.label, budget and budget.label, number): self._unit(spec, budget, number, prefix)
            for number in range(len(self.documents))
            for spec, budget in self._cells()
        }
        self._keys = {
            place: unit.key(self.model, self.documents[place[2]].sha256) for place, unit in self.units.items()
        }

    @property
    def done(self) -> int:
        return sum(key in self.journal.entries for key in self._keys.values())

    def run(self) -> Iterator[Unit]:
        """Run the unfinished units; yields each one once it is in the journal."""
        waiting = {
            key: self.units[place] for place, key in self._keys.items() if key not in self.journal.entries
        }
        if self.settings.processes <= 1:
            for key, unit in waiting.items():
                self.journal.add(key, unit.work(self.model))
                yield unit
            return
        settings = self.settings
        with ProcessPool(
            settings.processes, _load, settings.model, settings.device, self.model.dtype
        ) as pool:
            futures = {pool.submit(_work, unit): (key, unit) for key, unit in waiting.items()}
            for future in as_completed(futures):
                key, unit = futures[future]
                self.journal.add(key, future.result())
                yield unit

    def report(self) -> dict[str, Any]:
        """The report as JSON. All units must be finished."""
        cells = [
            Cell(
                spec,
                budget.label if budget else None,
                [
                    self.journal.entries[self._keys[spec.label, budget and budget.label, number]]
                    for number in range(len(self.documents))
                ],
            )
            for spec, budget in self._cells()
        ]
        settings = self.settings
        return {
            "format": FORMAT,
            "model": {
                "name": self.model.name,
                "revision": self.model.revision,
                "dtype": self.model.dtype,
                "window": self.model.window,
            },
            "settings": {
                "tasks": [Path(name).name for name in settings.tasks],
                "budgets": [asdict(budget) for budget in settings.budgets],
                "interval": settings.interval,
                "positions": settings.positions,
                "limit": settings.limit,
                "processes": settings.processes,
                "device": settings.device,
            },
            "documents": {
                "number": len(self.documents),
                "questions": sum(len(document.items) for document in self.documents),
                "tokens": sum(self._tokens),
            },
            "machine": machine(),
            "rows": [row | self._slots(row) for row in rows(cells, self.documents)],
        }

    def _cells(self) -> Iterator[tuple[PolicySpec, Budget | None]]:
        """All pairs of policy and budget; the full cache has no budget and is one cell."""
        for spec in self.settings.policies:
            if spec.policy == "full":
                yield spec, None
            else:
                for budget in self.settings.budgets:
                    yield spec, budget

    def _unit(self, spec: PolicySpec, budget: Budget | None, number: int, prefix: int) -> Unit:
        document, interval = self.documents[number], self.settings.interval
        return Unit(
            spec=spec,
            slots=budget.slots_for(self._tokens[number], prefix, interval) if budget else None,
            document=self._files[number],
            prompts=tuple(item.input for item in document.items),
            interval=interval,
            positions=self.settings.positions,
            max_output_tokens=self.settings.max_output_tokens or document.max_output_tokens,
        )

    def _slots(self, row: dict[str, Any]) -> dict[str, Any]:
        slots = [
            unit.slots for (policy, budget, _), unit in self.units.items()
            if (policy, budget) == (row["policy"], row["budget"]) and unit.slots is not None
        ]  # fmt: skip
        return {"slots": [min(slots), max(slots)] if slots else None}

    def _write(self, document: Document) -> Path:
        path = Path(self._directory.name) / f"{document.sha256}.txt"
        path.write_bytes(document.text.encode())
        return path


# -- in a process of the pool ------------------------------------------------------------------------------

_model: LoadedModel | None = None


def _load(model: str, device: str, dtype: str) -> None:
    global _model
    _model = load_model(model, device=device, dtype=dtype)


def _work(unit: Unit) -> dict[str, Any]:
    if _model is None:
        raise RuntimeError("the process has no model")
    return unit.work(_model)
