"""`namm`: the runtime on the command line, without the service."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from namm_runtime import policies
from namm_runtime.errors import Refusal
from namm_runtime.evaluate.command import evaluate
from namm_runtime.evolve.command import evolve
from namm_runtime.memory_map.command import map_
from namm_runtime.model.command import app as model_app
from namm_runtime.scorer import checkpoint, regime
from namm_runtime.scorer.manifest import MANIFEST_FILE
from namm_runtime.terminal import Dtype, Model, fail, progress_bar

if TYPE_CHECKING:
    from namm_runtime.engine.usage import Usage

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Read long documents into a bounded KV cache."
)
console = Console()
app.command()(evaluate)
app.command()(evolve)
app.command(name="map")(map_)
app.add_typer(model_app, name="model")


@app.command()
def read(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A UTF-8 text file.")],
    ask: Annotated[list[str], typer.Option(help="A question about the document; repeatable.")],
    model: Model = "bundled",
    policy: Annotated[
        str | None, typer.Option(help=f"{', '.join(policies.names())}. Default: by the model.")
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Slots each KV head keeps.")] = None,
    scorer: Annotated[Path | None, typer.Option(help="Directory of a scorer checkpoint.")] = None,
    mode: Annotated[str, typer.Option(help="auto, budget or parity (the reference's keep rule).")] = "auto",
    interval: Annotated[int | None, typer.Option(help="Tokens between evictions.")] = None,
    positions: Annotated[
        str | None, typer.Option(help="auto, absolute or cache-relative. Default: the scorer's own.")
    ] = None,
    reading: Annotated[
        str | None, typer.Option(help="guided by the questions (the default), or open.")
    ] = None,
    on_risk: Annotated[
        str, typer.Option(help="For answers at risk: report, or reread with twice the budget.")
    ] = "report",
    max_output_tokens: int = 64,
    temperature: float = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto to use all devices.")] = "cpu",
    dtype: Dtype = "auto",
    tensor_parallel: Annotated[
        bool, typer.Option("--tensor-parallel", help="Divide the heads among the processes of torchrun.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print answers and usage as JSON.")] = False,
) -> None:
    """Read FILE once into a bounded cache and answer every question from it."""
    from namm_runtime.engine import Engine, Request, Run
    from namm_runtime.model.loading import load_model

    request = Request(
        document=file,
        prompts=tuple(ask),
        policy=policy,
        budget=budget,
        scorer=scorer,
        mode=mode,
        interval=interval,
        positions=positions,
        reading=reading,
        on_risk=on_risk,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
    )
    try:
        loaded = load_model(model, device=device, dtype=dtype, tensor_parallel=tensor_parallel)
        engine = Engine(loaded)
        run: Run = engine.admit(request)
        with progress_bar(quiet=loaded.shard[0] > 0) as progress:
            task = progress.add_task("counting tokens", total=None)
            while run.phase != "done":
                engine.step()
                progress.update(
                    task, description=run.phase, completed=run.tokens_read, total=run.tokens_total or None
                )
        if run.error:
            raise run.error
    except Refusal as refusal:
        fail(refusal)
    if loaded.shard[0]:
        return  # all processes have the same answers; the first one prints them
    if as_json:
        report = {"answers": [asdict(answer) for answer in run.answers], "usage": run.usage.to_dict()}
        console.print_json(json.dumps(report))
        return
    for answer in run.answers:
        console.print(f"[bold]{escape(answer.prompt)}[/] {escape(answer.text)}", highlight=False)
        if answer.at_risk:
            console.print(
                f"  [yellow]at risk[/]: {answer.evicted_attention:.0%} of what this question attended to was "
                "evicted; a larger --budget or --on-risk reread may change the answer",
                highlight=False,
            )
    for warning in run.usage.warnings:
        console.print(f"[yellow]{warning['code']}[/]: {escape(warning['message'])}", highlight=False)
    _print_usage(run.usage)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="Directory of a scorer, or a bundled scorer's name.")],
) -> None:
    """Verify a scorer checkpoint and print its manifest."""
    try:
        if not directory.exists():
            directory = checkpoint.resolve(str(directory)).path
        scorer = checkpoint.load(directory)
    except Refusal as refusal:
        fail(refusal)
    console.print_json((directory / MANIFEST_FILE).read_text())
    console.print(f"{scorer.parameters.numel():,} parameters, all finite, sha256 verified")
    usual = regime.default_regime(scorer.regime, scorer.serving, scorer.regime.mode)
    console.print(f"evolved in: {regime.describe(scorer.regime)}", highlight=False, soft_wrap=True)
    console.print(f"serves in:  {regime.describe(usual)}", highlight=False, soft_wrap=True)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The trainer's ckpt.pt.")],
    out: Annotated[Path, typer.Option(help="Directory to write the scorer to.")],
    name: Annotated[str, typer.Option(help="Name of the scorer.")] = "imported",
    cap: Annotated[int | None, typer.Option(help="cache_size of the run's selection, if it had one.")] = None,
    best_member: Annotated[
        bool, typer.Option("--best-member", help="Import the best single candidate, not the mean.")
    ] = False,
) -> None:
    """Import a checkpoint of the reference implementation, without executing code from it."""
    from namm_runtime.scorer.reference_checkpoint import import_checkpoint

    vector = "best_member" if best_member else "mean"
    try:
        scorer = import_checkpoint(file, name=name, vector=vector, cap=cap)
        scorer.save(out)
    except Refusal as refusal:
        fail(refusal)
    except OSError as error:
        fail(Refusal("not_writable", f"the scorer cannot be written to {out}: {error}"))
    console.print(
        f"{out}: {scorer.parameters.numel():,} parameters ({vector}), iteration "
        f"{scorer.provenance['iteration']}; normaliser: {scorer.provenance['normaliser']}",
        highlight=False,
    )


@app.command()
def scorers() -> None:
    """List the bundled scorers; `inspect` shows one in detail."""
    table = Table("scorer", "parameters", "sha256", "evolved in", "serves in", "interval")
    for ref in checkpoint.bundled():
        scorer = checkpoint.load(ref.path)
        usual = regime.default_regime(scorer.regime, scorer.serving, scorer.regime.mode)
        table.add_row(
            f"{ref.name}@{ref.version}",
            f"{scorer.parameters.numel():,}",
            ref.sha256[:12],
            f"{scorer.regime.budget} slots",
            f"{usual.budget} slots",
            f"{usual.interval}",
        )
    console.print(table)


def _print_usage(usage: "Usage") -> None:
    spent = usage.seconds
    table = Table(show_header=False, box=None)
    table.add_row("tokens read", f"{usage.tokens_document:,}")
    table.add_row("kept", f"{usage.kept_fraction:.2%} of the tokens, {usage.positions} positions")
    table.add_row("policy", usage.policy)
    table.add_row("reading", usage.reading + (", twice" if usage.rereads else ""))
    if usage.regime:
        table.add_row("regime", usage.regime)
    if usage.no_saving:
        table.add_row("", usage.no_saving)
    table.add_row(
        "KV cache", f"{usage.resident_bytes / 2**20:.1f} MiB resident, {usage.peak_bytes / 2**20:.1f} peak"
    )
    table.add_row("full cache", f"{usage.dense_bytes / 2**20:.1f} MiB (derived)")
    speed = usage.tokens_document / max(spent["read"] + spent["score"], 1e-9)
    table.add_row("speed", f"{speed:,.0f} tokens/s, {spent['score'] / sum(spent.values()):.0%} of it scoring")
    console.print(table)


if __name__ == "__main__":
    app()
