"""`namm map`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from namm_runtime.errors import Refusal
from namm_runtime.terminal import Dtype, Model, fail, progress_bar

if TYPE_CHECKING:
    from namm_runtime.engine import Run

console = Console()


def map_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A UTF-8 text file.")],
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: FILE.map.html.")] = None,
    policy: Annotated[
        list[str], typer.Option(help="Repeatable, to compare policies; NAME=DIR is a scorer of your own.")
    ] = ["namm-key"],  # noqa: B006  typer copies it
    budget: Annotated[str, typer.Option(help="Slots (512) or a share of the document (25%).")] = "512",
    model: Model = "bundled",
    interval: Annotated[int, typer.Option(help="Tokens between evictions.")] = 512,
    positions: Annotated[
        str | None, typer.Option(help="auto, absolute or cache-relative. Default: the scorer's own.")
    ] = None,
    device: str = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Read FILE and write a page that shows which parts of it are still in the cache."""
    from namm_runtime.evaluate.budget import Budget
    from namm_runtime.evaluate.unit import PolicySpec
    from namm_runtime.memory_map.page import page
    from namm_runtime.memory_map.retention import TokenisedDocument, measure_retention
    from namm_runtime.memory_map.token_kinds import classify_tokens
    from namm_runtime.model.loading import load_model

    try:
        specs = [PolicySpec.parse(text) for text in policy]
        wanted = Budget.parse(budget)
        loaded = load_model(model, device=device, dtype=dtype)
        document = TokenisedDocument.read(file, loaded.tokenizer)
        if not document.tokens:
            raise Refusal("document_empty", "the document has no text")
        before = len(loaded.frame.prefix)
        readings = []
        with progress_bar() as progress:
            for spec in specs:
                slots = None if spec.policy == "full" else wanted.slots_for(document.tokens, before, interval)
                bar = progress.add_task(spec.label, total=document.tokens)
                advance = partial(_advance, progress, bar)
                readings.append(measure_retention(loaded, file, spec, slots, interval, positions, advance))
    except Refusal as refusal:
        fail(refusal)
    of_tokens, decided = classify_tokens(document, file.name)
    target = out or Path(f"{file.name}.map.html")
    # Written as bytes, so that line breaks stay as they are in the file on every system.
    target.write_bytes(page(file.name, loaded, document, readings, of_tokens, decided, interval).encode())
    console.print(f"{target}: {target.stat().st_size / 1024:,.0f} KiB", highlight=False)


def _advance(progress: Progress, bar: TaskID, run: "Run") -> None:
    progress.update(bar, completed=run.tokens_read)
