"""Our side: policies read the documents, open or guided by the questions, and predict the forced answers."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.records import INTERVAL, Record, questions
from namm_runtime.evaluate.budget import Budget
from namm_runtime.evaluate.document import Document
from namm_runtime.evaluate.journal import Journal
from namm_runtime.evaluate.spec import PolicySpec
from namm_runtime.evaluate.unit import Probe, Unit
from namm_runtime.model.loading import LoadedModel

# What is compared, by how the document is read. Add a policy, or `name=DIRECTORY` for a scorer of your own.
POLICIES = {
    "open": ("keydiff", "snapkv", "h2o", "streaming", "namm-key"),
    "guided": ("keydiff", "snapkv", "prompts", "namm"),
}
POSITIONS = "auto"  # absolute, like those of kvpress, if document and question fit the model's window


def units(document: Document, file: Path, kept: Record) -> Iterator[tuple[str, str | None, Unit]]:
    """Yield method, budget and the work for each; the full cache has no budget.

    Args:
        file: holds the document's text.
        kept: budget → slots per head.
    """
    yield "ours: full", None, _unit(document, file, "full", "open", None)
    for reading, policies in POLICIES.items():
        for policy in policies:
            for budget, slots in kept.items():
                method = f"ours, {reading}: {policy.partition('=')[0]}"
                yield method, budget, _unit(document, file, policy, reading, slots)


def measure(
    model: LoadedModel, document: Document, directory: Path, made: Record, journal: Journal
) -> Iterator[Record]:
    """Yield a line for each method and budget, in the form of the other side's. Finished ones are kept."""
    file = directory / "document.txt"
    file.write_bytes(document.text.encode())
    for method, budget, unit in units(document, file, made["kept"]):
        key = unit.key(model, document.sha256)
        if key not in journal.entries:
            journal.add(key, unit.work(model))
        forced = journal.entries[key]["forced"]
        yield {"document": made["sha256"], "method": method, "budget": budget, "forced": forced}


def budgets(shares: str) -> list[Budget]:
    return [Budget.parse(share) for share in shares.split(",")]


def _unit(document: Document, file: Path, policy: str, reading: str, slots: int | None) -> Unit:
    items = questions(document)
    return Unit(
        spec=PolicySpec.parse(policy),
        slots=slots,
        document=file,
        prompts=tuple(item.input for item in items),
        interval=INTERVAL,
        positions=POSITIONS,
        max_output_tokens=document.max_output_tokens,
        reading=reading,
        generate=False,
        probes=tuple(
            Probe(item.input, item.forced, number) for number, item in enumerate(items) if item.forced
        ),
    )
