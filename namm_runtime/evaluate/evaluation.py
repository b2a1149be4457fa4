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
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.report import FORMAT, Cell, rows
from namm_runtime.evaluate.suite import load
from namm_runtime.evaluate.unit import PolicySpec, Probe, Unit
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
        dtype: as in `load_model`.
        readings: `guided`, `open` or both; the full cache, which evicts nothing, is read open only.
        guide: `all` reads a document once, guided by all its prompts together; `one` reads it once for each.
        generate: whether to generate answers to questions that also have a forced one.
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
    readings: tuple[str, ...] = ("open",)
    guide: str = "all"
    generate: bool = True


READINGS = ("guided", "open")
GUIDES = ("all", "one")
Place = tuple[str, str | None, str, int]  # policy, budget, reading, number of the document


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
        if not settings.readings or set(settings.readings) - set(READINGS) or settings.guide not in GUIDES:
            raise Refusal("bad_request", "--reading must be guided, open or both, and --guide all or one")
        if len(set(settings.readings)) < len(settings.readings):
            raise Refusal("bad_request", "readings must not be repeated")
        if settings.processes > 1:
            torch.set_num_threads(1)
        self.model = load_model(settings.model, device=settings.device, dtype=settings.dtype)
        self.documents = load(settings.tasks, self.model.tokenizer, settings.limit)
        self._directory = TemporaryDirectory(prefix="namm-evaluate-")
        self._files = [self._write(document) for document in self.documents]
        prefix = len(self.model.frame.prefix)
        self._tokens = [max(counted(file, self.model.tokenizer), default=0) for file in self._files]
        # Document by document, so that an interrupted run leaves comparable rows.
        self.units: dict[Place, Unit] = {
            (spec.label, budget.label if budget else None, reading, number): self._unit(
                spec, budget, reading, number, prefix
            )
            for number in range(len(self.documents))
            for spec, budget, reading in self._cells()
        }
        self._keys = {
            place: unit.key(self.model, self.documents[place[3]].sha256) for place, unit in self.units.items()
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
                    self.journal.entries[
                        self._keys[spec.label, budget.label if budget else None, reading, number]
                    ]
                    for number in range(len(self.documents))
                ],
                reading,
            )
            for spec, budget, reading in self._cells()
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
                "readings": list(settings.readings),
                "guide": settings.guide,
            },
            "documents": {
                "number": len(self.documents),
                "questions": sum(len(document.items) for document in self.documents),
                "tokens": sum(self._tokens),
            },
            "machine": machine(),
            "rows": [row | self._slots(row) for row in rows(cells, self.documents)],
        }

    def _cells(self) -> Iterator[tuple[PolicySpec, Budget | None, str]]:
        """All combinations of policy, budget and reading; the full cache has no budget and is one cell."""
        for spec in self.settings.policies:
            if spec.policy == "full":
                yield spec, None, "open"
            else:
                for budget in self.settings.budgets:
                    for reading in self.settings.readings:
                        yield spec, budget, reading

    def _unit(self, spec: PolicySpec, budget: Budget | None, reading: str, number: int, prefix: int) -> Unit:
        document, settings = self.documents[number], self.settings
        interval = settings.interval
        asked = [item for item in document.items if item.asked]
        forced = [item for item in document.items if item.forced]
        return Unit(
            spec=spec,
            slots=budget.slots_for(self._tokens[number], prefix, interval) if budget else None,
            document=self._files[number],
            prompts=tuple(item.input for item in asked),
            interval=interval,
            positions=settings.positions,
            max_output_tokens=settings.max_output_tokens or document.max_output_tokens,
            reading=reading,
            apart=reading == "guided" and settings.guide == "one",
            generate=settings.generate or not forced,
            probes=tuple(
                Probe(item.input, item.forced, asked.index(item) if item.asked else None)
                for item in forced
                if item.forced
            ),
            following=document.following,
        )

    def _slots(self, row: dict[str, Any]) -> dict[str, Any]:
        slots = [
            unit.slots for (policy, budget, _, _), unit in self.units.items()
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
