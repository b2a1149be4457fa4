"""`namm evaluate`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from namm_runtime.errors import Refusal
from namm_runtime.terminal import Dtype, Model, fail, progress_bar

console = Console()
POLICIES = "full,namm,namm-key,namm-zero,bam-key,h2o,snapkv,keydiff,keydiff-token,l2,streaming"


def evaluate(
    out: Annotated[
        Path, typer.Option("--json", help="File for the report; a table and a plot are written next to it.")
    ],
    tasks: Annotated[
        list[str],
        typer.Option(help="A suite (bundled, real, …, or a TOML file), real=FOLDER, or JSONL; repeatable."),
    ] = ["bundled"],  # noqa: B006  typer copies it
    policies: Annotated[
        str, typer.Option(help="Comma-separated; NAME=DIR adds a scorer of your own.")
    ] = POLICIES,
    budgets: Annotated[
        str, typer.Option(help="Comma-separated slots (512) or shares of each document (25%).")
    ] = "25%",
    model: Model = "bundled",
    interval: Annotated[int, typer.Option(help="Tokens between evictions.")] = 512,
    positions: Annotated[str, typer.Option(help="cache-relative, absolute or auto.")] = "cache-relative",
    limit: Annotated[
        int | None, typer.Option(help="Documents per task and length; of real text, per length.", min=1)
    ] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Maximum length of an answer.", min=1)] = None,
    reading: Annotated[
        str, typer.Option(help="guided by the questions, open, or both, separated by a comma.")
    ] = "open",
    guide: Annotated[
        str, typer.Option(help="Guide by all questions together, or read once for each one.")
    ] = "all",
    answers: Annotated[
        bool, typer.Option(help="Generate answers to questions that also have a forced one.")
    ] = True,
    device: str = "cpu",
    dtype: Dtype = "auto",
    processes: Annotated[int, typer.Option(help="Number of processes, one thread each.", min=1)] = 1,
    plot: Annotated[str, typer.Option(help="svg, png, or none.")] = "svg",
) -> None:
    """Score policies at several budgets on the same questions. Run again to resume after an interruption.

    Finished work is kept next to the report, in a file that ends in .jsonl.
    """
    if plot not in ("svg", "png", "none") or out.suffix != ".json":
        fail(Refusal("bad_request", "--plot must be svg, png or none, and --json a file that ends in .json"))
    try:
        if plot != "none":
            import matplotlib  # noqa: F401  fail now if it is missing, not after an hour of reading

        from namm_runtime.evaluate.budget import Budget
        from namm_runtime.evaluate.evaluation import Evaluation, Settings
        from namm_runtime.evaluate.journal import Journal
        from namm_runtime.evaluate.markdown import markdown
        from namm_runtime.evaluate.plot import plot as draw
        from namm_runtime.evaluate.unit import PolicySpec
    except ModuleNotFoundError as error:
        fail(Refusal("extra_missing", f"evaluation needs '{error.name}': pip install 'palimpsest[evaluate]'"))
    try:
        settings = Settings(
            tasks=tuple(tasks),
            policies=tuple(PolicySpec.parse(text) for text in policies.split(",")),
            budgets=tuple(Budget.parse(text) for text in budgets.split(",")),
            model=model,
            interval=interval,
            positions=positions,
            limit=limit,
            max_output_tokens=max_output_tokens,
            device=device,
            dtype=dtype,
            processes=processes,
            readings=tuple(name.strip() for name in reading.split(",")),
            guide=guide,
            generate=answers,
        )
        evaluation = Evaluation(settings, Journal(out.with_suffix(".jsonl")))
        with progress_bar() as progress:
            bar = progress.add_task("documents", total=len(evaluation.units), completed=evaluation.done)
            for unit in evaluation.run():
                progress.update(bar, advance=1, description=escape(unit.spec.label))
        report = evaluation.report()
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        table = markdown(report)
        out.with_suffix(".md").write_text(table)
        console.print(table, markup=False, highlight=False, soft_wrap=True)
        if plot != "none":
            draw(report, out.with_suffix(f".{plot}"))
    except Refusal as refusal:
        fail(refusal)
