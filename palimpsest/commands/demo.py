"""`palimpsest demo`: a million-token job on this machine, with its cost and savings."""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tokenizers import Tokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.tasks.sized import document_of_tokens
from palimpsest.commands.common import CacheBudget, reporting_errors
from palimpsest.commands.jobs import follow, print_settings
from palimpsest.embedded.account import EmbeddedError
from palimpsest.machine.data_directory import LocalError
from palimpsest.machine.supervisor import Service, running
from palimpsest_client import Client

FACTS = 30
MIB = 2**20
console = Console(highlight=False, emoji=False, soft_wrap=True)


def demo(
    doc: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A UTF-8 text file of your own, instead of the assembled document.",
        ),
    ] = None,
    ask: Annotated[list[str] | None, typer.Option(help="A question about --doc; repeatable.")] = None,
    policy: Annotated[str, typer.Option(help="Policy that prunes the KV cache.")] = "namm-key",
    tokens: Annotated[
        int, typer.Option(min=1000, help="Length of the assembled document in tokens.")
    ] = 1_000_000,
    cache_budget: CacheBudget = None,
    max_output_tokens: Annotated[
        int, typer.Option(help="Limit of output tokens for each answer about --doc.")
    ] = 48,
    data: Annotated[Path | None, typer.Option(help="Data directory, as for `palimpsest up`.")] = None,
) -> None:
    """Run a million-token job on this machine and print its answers, cost and savings."""
    if (doc is None) != (not ask):
        raise typer.BadParameter("--doc and --ask require each other (make demo DOC=path ASK='…')")
    started = time.monotonic()
    try:
        with (
            running(data, say=lambda sentence: console.print(f"==> {sentence}")) as service,
            reporting_errors(),
        ):
            if doc is not None and ask:
                done = ask_own(service, doc, ask, policy, cache_budget, max_output_tokens)
            else:
                done = ask_planted(service, tokens, policy, cache_budget)
    except (LocalError, EmbeddedError) as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from None
    console.print(f"total time: {time.monotonic() - started:.0f} s (measured)")
    if not done:
        raise typer.Exit(1)
    console.print(
        "The job is kept in Postgres: run `palimpsest up`, then `palimpsest jobs` and `palimpsest cost ID`."
    )


def ask_planted(service: Service, tokens: int, policy: str, cache_budget: int | None, seed: int = 0) -> bool:
    """Plant facts in ordinary text, ask the service about them, and show the answers next to the truth.

    The text is source code and licences of Python's standard library, held out from the model's training, as
    are names, numbers and wordings of the facts. Returns whether the job succeeded.
    """
    console.print(f"Planting {FACTS} facts in {tokens:,} tokens of Python's library source and licences")
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    document = document_of_tokens(tokenizer, tokens, FACTS, seed)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a-million-tokens.txt"
        path.write_text(document.text)
        questions = [planted.fact.question for planted in document.facts]
        with Client(service.base_url, service.api_key) as client:
            job, result = _run(client, path, questions, policy, cache_budget, output_tokens=12)
            if result is None:
                return False
            answers = [answer["text"].strip().rstrip(".") for answer in result["answers"]]
            truths = [planted.fact.answer for planted in document.facts]
            table = Table("depth", "question", "truth", "answer", "", box=None, pad_edge=False)
            for planted, answer in zip(document.facts, answers, strict=True):
                right = answer == planted.fact.answer
                mark = "[green]found[/]" if right else "[red]lost[/]"
                table.add_row(
                    f"{planted.depth:.0%}", planted.fact.question, planted.fact.answer, answer, mark
                )
            console.print(table)
            found = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
            console.print(f"\n[bold]{found} of {FACTS} facts found[/] (measured) by {_answered_with(job)}")
            _bill(client, job)
    return True


def ask_own(
    service: Service,
    path: Path,
    questions: list[str],
    policy: str,
    cache_budget: int | None,
    output_tokens: int,
) -> bool:
    """Ask the service about the user's own file. Returns whether the job succeeded."""
    with Client(service.base_url, service.api_key) as client:
        job, result = _run(client, path, questions, policy, cache_budget, output_tokens)
        if result is None:
            return False
        for answer in result["answers"]:
            console.print(f"[bold]{escape(answer['prompt'].strip())}[/] {escape(answer['text'].strip())}")
        console.print(f"\nanswered by {_answered_with(job)}")
        console.print(
            "The bundled model is for demonstration only: it completes lines it has read "
            "(Invoice 4821 total: …). Set PALIMPSEST_MODEL to a real Llama for real questions."
        )
        _bill(client, job)
    return True


def _run(
    client: Client,
    path: Path,
    questions: list[str],
    policy: str,
    cache_budget: int | None,
    output_tokens: int,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Upload, submit and watch. If the job did not succeed, the reason is printed and the result is None."""
    console.print(f"POST /v1/documents  {path.stat().st_size / MIB:.1f} MiB")
    document = client.upload(path)
    job = client.submit(
        document_id=document["id"],
        task="ask",
        questions=questions,
        policy=policy,
        cache_budget=cache_budget,
        max_output_tokens=output_tokens,
    )
    console.print(f"POST /v1/jobs       {job['id']}, {len(questions)} questions")
    job = follow(client, job["id"])
    if job["state"] != "succeeded":
        error = job["error"] or {}
        console.print(f"[red]{job['state']}[/] {error.get('code', '')}: {escape(error.get('message', ''))}")
        return job, None
    return job, client.result(job["id"])


def _answered_with(job: dict[str, Any]) -> str:
    scorer = job.get("scorer")
    return f"policy {job['policy']}" + (f", scorer {scorer}" if scorer else "") + f", model {job['model']}"


def _bill(client: Client, job: dict[str, Any]) -> None:
    """Print the job's bill, each figure with how it was determined."""
    bill = client.cost(job["id"])
    table = Table("figure", "quantity", "", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    spent: dict[str, float] = {}
    for line in bill["lines"]:
        if not line["waste"]:
            before, quantity = spent.get(line["meter"], 0.0), float(line["quantity"])
            adds = (
                line["unit"] == "second"
            )  # seconds add up over attempts; the others are the state at the end of each
            spent[line["meter"]] = before + quantity if adds else max(before, quantity)
    reading = spent.get("device_seconds.read", 0.0) + spent.get("device_seconds.score", 0.0)
    if reading:
        table.add_row("tokens read", f"{spent['tokens.document']:,.0f}", "", "measured")
        table.add_row("reading speed", f"{spent['tokens.document'] / reading:,.0f}", "tokens/s", "derived")
    if spent.get("tokens.document"):
        share = spent["tokens.kept"] / spent["tokens.document"]
        table.add_row("kept in the KV cache", f"{share:.2%}", "of the tokens", "derived")
    for figure in bill["summary"]:
        quantity, unit = float(figure["quantity"]), figure["unit"]
        if unit in ("byte", "byte-second"):
            quantity, unit = quantity / MIB, unit.replace("byte", "MiB")
        shown = f"{quantity:,.6f}" if unit == bill["currency"] else f"{quantity:,.1f}"
        table.add_row(figure["name"].replace("_", " "), shown, unit, figure["measurement"])
    console.print(table)
    print_settings(bill["setting"])
    if bill.get("no_saving"):
        console.print(bill["no_saving"])
    console.print(
        f"price: {bill['price_per_device_hour']} {bill['currency']} per device-hour "
        "(`palimpsest price load` sets your own)"
    )
