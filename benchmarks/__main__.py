"""Measure every table of the docs: `python -m benchmarks`; only one: `python -m benchmarks policies`."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import typer

from benchmarks import digest as digests
from benchmarks import figure as drawing
from benchmarks import lengths as by_length
from benchmarks import quality_tables, running, tables
from benchmarks import resume as resuming
from benchmarks.gpu import rows as on_gpu
from benchmarks.gpu.rows import NO_GPU
from benchmarks.labels import Row
from benchmarks.packed_weights import WEIGHTS as PACKED_WEIGHTS
from benchmarks.peers import compare
from benchmarks.running import console, evaluate, make, measure, write
from namm_runtime.bundled import MODEL_DIR, MODELS

MILLION = 1_000_000
LEARNED = "namm-key,bam-key,namm-zero,namm,namm-layer,namm-key-zeroed"
POLICIES = f"{LEARNED},keydiff,h2o,snapkv,l2,streaming"  # of the suites
CONTROLLED = ",".join(f"{name}=benchmarks/controls/{name}" for name in quality_tables.CONTROLS)
app = typer.Typer(add_completion=False, invoke_without_command=True, help=__doc__)


@app.callback()
def everything(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        slots()
        memory()
        policies()
        quality()
        transfer()
        long()
        separability()
        resume()
        time_breakdown()
        eager()
        batch_invariance()
        reports()
        swap()
        throughput()
        bulk()
        schedules()
        shortcuts()
        lengths()
        packed_weights()
        guided_cost()
        with suppress(typer.Exit):  # some templates are below the bar
            digest()
        peers()
        real_guided()
        real_open()


@app.command()
def policies(tokens: int = MILLION, budget: int = tables.BUDGET) -> None:
    """The README's table: every policy on the same million tokens."""
    names = ("namm-key", "bam-key", "namm-zero", "namm", "namm-key-zeroed", "keydiff", "h2o", "streaming")
    make("policies", [{"policy": name, "budget": budget, "tokens": tokens} for name in names])


@app.command()
def slots(tokens: int = 65_536) -> None:
    """Slots × speed × facts found: the basis for the default budget."""
    budgets = (128, 256, 512, 1024)
    grid = [(name, budget) for name in ("namm-key", "keydiff", "streaming") for budget in budgets]
    make("slots", [{"policy": name, "budget": budget, "tokens": tokens} for name, budget in grid])


@app.command()
def memory(budget: int = tables.BUDGET) -> None:
    """Peak memory of the process against the document's length."""
    lengths = (65_536, 262_144, MILLION)
    make("memory", [{"policy": "namm-key", "budget": budget, "tokens": tokens} for tokens in lengths])


@app.command()
def quality(budgets: str = "12.5%,25%", processes: int = 2, limit: int | None = None) -> None:
    """Policies and controls × budgets on the bundled suite; resumes after an interruption."""
    evaluate("quality", "bundled", "bundled", f"full,{POLICIES},{CONTROLLED}", budgets, processes, limit)


@app.command()
def transfer(budgets: str = "12.5%,25%", processes: int = 2, limit: int | None = None) -> None:
    """The same with a model of another shape, on which no scorer was evolved."""
    evaluate("transfer", "bundled", "bundled-deep", f"full,{POLICIES}", budgets, processes, limit)


@app.command()
def long(budget: int = tables.BUDGET, processes: int = 2, limit: int | None = None) -> None:
    """Policies on documents of 65,700 tokens at the serving budget, too long for a full cache."""
    evaluate("long", "long", "bundled", POLICIES, str(budget), processes, limit)


@app.command()
@app.command("tells", hidden=True)  # its former name
def separability(tokens: int = 4096, documents: int = 12) -> None:
    """How well attention and keys of the bundled models separate needed values from look-alikes."""
    make(
        "separability",
        [{"model": name, "tokens": tokens, "documents": documents} for name in MODELS],
        "separability",
    )


@app.command()
def seeds(runs: list[Path], budgets: str = "12.5%,25%", processes: int = 2, limit: int | None = None) -> None:
    """The bundled model and its headline scorer from other seeds, compared with heuristics and seed 0.

    Each directory contains `model` and `scorer`, made by `namm_runtime.training.train` and `namm evolve`.
    """
    reports = {0: json.loads((tables.RESULTS / "quality.json").read_text())}
    for run in (path.resolve() for path in runs):
        policies = f"full,{quality_tables.HEADLINE}={run / 'scorer'},{','.join(quality_tables.BESIDE)}"
        measure(run / "evaluation.json", "bundled", str(run / "model"), policies, budgets, processes, limit)
        seed = json.loads((run / "model" / "training.json").read_text())["seed"]
        reports[seed] = json.loads((run / "evaluation.json").read_text())
    write("seeds", quality_tables.by_seed(reports))


@app.command()
def real_guided(limit: int | None = None, processes: int = 2) -> None:
    """Policies under SmolLM2 on real text, guided by the questions."""
    _real("real_guided", "full,keydiff,keydiff-token,h2o,snapkv,prompts,namm", "12.5%,25%", processes, limit)


@app.command()
def real_open(limit: int | None = None, processes: int = 2) -> None:
    """Policies under SmolLM2 on real text, without knowing the questions."""
    policies = "full,keydiff,keydiff-token,h2o,snapkv,streaming,namm,namm-key"
    _real("real_open", policies, "25%,50%", processes, limit)


def _real(name: str, policies: str, budgets: str, processes: int, limit: int | None) -> None:
    reading = name.removeprefix("real_")
    more = ["--reading", reading, "--no-answers", "--dtype", "bfloat16"]
    evaluate(name, "real", "smollm2-135m", policies, budgets, processes, limit, more)


@app.command()
def resume(tokens: int = 100_000, policy: str = "namm-key", threads: int = 1) -> None:
    """Reading in one go, compared with reading half, saving, and resuming in a new process."""
    row = resuming.check(tokens, policy, threads=threads)
    console.print_json(json.dumps(row))
    write("resume", [row])
    if not row["identical"]:
        raise typer.Exit(1)


@app.command()
def lengths(
    limit_minutes: float = 30, chunked_minutes: float = 10, tokens: int = 1 << 20, budget: int = tables.BUDGET
) -> None:
    """Speed and memory against length, compared with the full cache of plain transformers.

    The time limits apply to one reading with a full cache: the whole document in one call, which is fastest,
    and in calls of 512 tokens. Longer lengths are extrapolated from a fit.
    """
    wanted = [length for length in by_length.LENGTHS if length <= tokens]
    with tempfile.TemporaryDirectory() as directory:
        ids = Path(directory) / "ids.npy"
        by_length.write_ids(ids, wanted[-1])

        def run(setting: Row) -> list[Row]:
            return running.run("lengths", {"ids": str(ids)} | setting)

        write("lengths", by_length.compare(run, wanted, budget, limit_minutes * 60, chunked_minutes * 60))


@app.command()
@app.command("shares", hidden=True)  # its former name
def time_breakdown(tokens: int = 65_536, budget: int = tables.BUDGET) -> None:
    """The breakdown of reading time, compared with the breakdown of FLOPs."""
    make(
        "time_breakdown",
        [{"policy": name, "budget": budget, "tokens": tokens} for name in ("namm", "namm-key")],
        "time_breakdown",
    )


@app.command()
def packed_weights(model: str = "smollm2-135m") -> None:
    """Linear layers in fp32, bf16 and packed to 8 and 4 bits, on a CPU."""
    make("packed_weights", [{"model": model, "weights": kind} for kind in PACKED_WEIGHTS], "packed_weights")


@app.command()
def guided_cost(model: str = "smollm2-135m") -> None:
    """What prompts that guide the reading add to its time."""
    grid = [(policy, prompts) for policy in ("keydiff", "namm") for prompts in (1, 6, 30)]
    make(
        "guided_cost",
        [{"model": model, "policy": policy, "prompts": prompts} for policy, prompts in grid],
        "guided_cost",
    )


@app.command()
def peers(
    model: str = "smollm2-135m", lengths: str = "4096", documents: int = 8, shares: str = "25%,12.5%"
) -> None:
    """kvpress, and passages found by BM25, beside our policies; resumes after an interruption.

    `documents` of each length, which are those of the suite `real`. The first time an environment for kvpress
    is made in `.peers`.
    """
    wanted = [int(length) for length in lengths.split(",")]
    rows = compare.compare(model, wanted, documents, shares, tables.RESULTS / "peers.jsonl", console.print)
    write("peers", rows)


@app.command()
def eager(repeats: int = 15) -> None:
    """Features and scores, compared with an implementation that materialises attention."""
    grid = [(slots, side) for slots in (2048, 4096, 8192) for side in ("eager", "ours")]
    make("eager", [{"side": side, "slots": slots, "repeats": repeats} for slots, side in grid], "eager")


@app.command()
def shortcuts(tokens: int = 262_144, budget: int = tables.BUDGET) -> None:
    """Longer intervals, and policies that observe only the last queries: speed and facts found."""
    window = json.loads((MODEL_DIR / "config.json").read_text())["max_position_embeddings"]
    latest = min(2048, window - budget)  # slots and interval must fit the window
    ways = ((512, None), (1024, None), (latest, None), (512, 256), (512, 128), (latest, 512))
    settings = [
        {"policy": name, "budget": budget, "tokens": tokens, "interval": interval, "watch_last": watched}
        for name in ("namm-key", "namm")
        for interval, watched in ways
    ]
    make("shortcuts", settings)


@app.command()
@app.command("company", hidden=True)  # its former name
def batch_invariance(tokens: int = 8192, budget: int = 256) -> None:
    """How often a keep decision changes when documents share a tensor."""
    make(
        "batch_invariance",
        [{"rows": rows, "tokens": tokens, "budget": budget} for rows in (2, 8, 32)],
        "batch_invariance",
    )


@app.command()
def reports(rows: int = MILLION) -> None:
    """A 90-day report and a job's bill from a ledger of a million rows."""
    make("reports", [{"rows": rows}], "reports")


@app.command()
def swap(swaps: int = 20) -> None:
    """Time from the commit of a scorer's activation to the first claimed job that uses it."""
    make("swap", [{"swaps": swaps}], "swap")


@app.command()
def bulk(small: int = 10_000, real: int = 300, kills: int = 6) -> None:
    """Bulk jobs while processes are killed: is anything lost, duplicated or out of order?"""
    sets = (("stand-in", small), ("real", real))
    make("bulk", [{"engine": engine, "count": count, "kills": kills} for engine, count in sets], "bulk")


@app.command()
def digest(
    model: str = "qwen2.5-coder-1.5b",
    templates: str = "brief,quotes,summary",
    words: int = 80,
    points: int = 4,
    folder: Path = digests.EXAMPLE / "documents",
    facts: Path = digests.EXAMPLE / "facts.toml",
    keep: Path | None = None,
    add: bool = False,
) -> None:
    """What digests of the example carry of the facts planted in it; exit code 1 below the bar of the facts.

    `keep` is a folder for the bundles. With `add` the rows of other models and templates stay.
    """
    result, shortfall = tables.RESULTS / "digest.json", False
    for template in templates.split(","):
        bundle = None if keep is None else keep / template
        row = digests.measure(model, template, words, points, folder, facts, bundle)
        before = json.loads(result.read_text()) if add and result.exists() else []
        others = [one for one in before if (one["model"], one["template"]) != (model, template)]
        write("digest", [*others, row])
        console.print(row["totals"], row["shortfalls"] or "The bar is met.")
        add, shortfall = True, shortfall or bool(row["shortfalls"])
    if shortfall:
        raise typer.Exit(1)


@app.command()
def schedules(few: int = 50, many: int = 300) -> None:
    """How late schedules fire, with two schedulers and after one of them was killed."""
    sets = ((few, 5, 3), (many, 2, 1))
    settings = [
        {"count": count, "minutes": minutes, "minutes_alone": alone} for count, minutes, alone in sets
    ]
    make("schedules", settings, "schedules")


@app.command()
def throughput(count: int = 200, tokens: int = MILLION) -> None:
    """Documents per minute through one worker, with one slot and the default; then one long document."""
    ways = ({"slots": 1, "all_cores": True}, {"slots": None})
    sets = ({"count": 1, "tokens": tokens}, {"count": count})
    make("throughput", [way | documents for documents in sets for way in ways], "throughput")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def gpu(context: typer.Context) -> None:
    """Verify the CUDA path, then read a million tokens at 8B shape. `python -m benchmarks.gpu --help`."""
    status = on_gpu.main(context.args)
    if status != NO_GPU:
        render()
    raise typer.Exit(status)


@app.command()
def render() -> None:
    """Rewrite the tables in README and docs from the committed results."""
    for path in tables.render():
        console.print(f"wrote {path}")


@app.command()
def figure() -> None:
    """Draw the README's figure anew from the committed results."""
    drawing.draw(json.loads((tables.RESULTS / "quality.json").read_text()), tables.FIGURE)
    console.print(f"wrote {tables.FIGURE}")


app()
