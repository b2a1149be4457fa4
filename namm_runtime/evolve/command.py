"""`namm evolve`."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from namm_runtime.errors import Refusal
from namm_runtime.terminal import fail, progress_bar

if TYPE_CHECKING:
    from namm_runtime.evolve.search import Generation, Search

console = Console(soft_wrap=True)


def evolve(
    config: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="TOML; see namm_runtime/bundled/evolution.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the scorer to.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Directory of the run's state, resumed if it exists. Default: OUT/run."),
    ] = None,
    processes: Annotated[
        int, typer.Option(help="Number of processes that evaluate candidates, one thread each.", min=1)
    ] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Of the model; replaces the configuration's. auto, float32, bfloat16 …")
    ] = None,
) -> None:
    """Evolve a scorer. An interrupted run resumes where it stopped."""
    try:
        require_extra()
        import torch

        from namm_runtime.evolve.config import EvolutionConfig
        from namm_runtime.evolve.evaluators import ProcessPoolEvaluator
        from namm_runtime.evolve.search import Search
        from namm_runtime.model.loading import load_model

        torch.set_num_threads(1)  # as in the pool: further cores are for further processes
        settings = EvolutionConfig.read(config)
        model = load_model(settings.model, dtype=dtype or settings.dtype)
        settings = replace(settings, dtype=model.dtype)  # the same in every process, and when resumed
        with ProcessPoolEvaluator(settings, processes) if processes > 1 else nullcontext() as pool:
            with console.status(f"initial scorer ({settings.start}) and normaliser"):
                search = Search(model, settings, work or out / "run", pool)
            follow(search, out)
    except Refusal as refusal:
        fail(refusal)


def require_extra() -> None:
    """Check for the optional dependencies before hours of searching, not after.

    Raises:
        Refusal: `extra_missing`.
    """
    try:
        import cma  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise Refusal(
            "extra_missing", f"evolution needs '{error.name}': pip install 'palimpsest[evolve]'"
        ) from None


def follow(search: "Search", out: Path) -> None:
    """Run a search to its end and show its progress; `out` always holds the best scorer so far."""
    full = float(search.full.score.mean())
    console.print(f"validation, full cache: score {full:.4f}", highlight=False)
    console.print(_summary(search), highlight=False)
    save(search, out)
    with progress_bar() as progress:
        task = progress.add_task("", total=search.config.generations, completed=search.generation)
        for report in search.run():
            progress.update(task, completed=report.number, description=_line(report))
            if report.validation is not None:
                save(search, out)
                console.print(f"generation {report.number}: {_summary(search)}", highlight=False)
    save(search, out)
    console.print(f"{out}: the mean of generation {search.best.generation}", highlight=False)


def save(search: "Search", out: Path) -> None:
    """Write the best scorer so far, the log and the plot."""
    from namm_runtime.evolve.plot import plot

    search.result().save(out)
    shutil.copyfile(search.directory / "log.jsonl", out / "evolution.jsonl")
    plot(search, out / "evolution.svg")


def _line(report: "Generation") -> str:
    return f"stage {report.stage}, fitness {report.best:.3f}, kept {report.kept:.1%}"


def _summary(search: "Search") -> str:
    best = search.best
    return (
        f"best validation fitness so far {best.fitness:.4f} (generation {best.generation}; "
        f"score {best.score:.4f}, exact {best.exact:.3f}, kept {best.kept:.1%})"
    )
