"""The step of the demo that reads a million tokens with the bundled model."""

import tempfile
from pathlib import Path

from rich.table import Table
from tokenizers import Tokenizer

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.tasks.sized import document_of_tokens
from palimpsest.commands.demo.job import MIB, answered_with, console, print_bill, run
from palimpsest_client import Client

FACTS = 30
POLICY = "namm-key"
OUTPUT_TOKENS = 12


def ask_planted(client: Client, tokens: int, policy: str | None, cache_budget: int | None) -> None:
    """Plant facts in ordinary text, ask the service about them, and show the answers next to the truth.

    The text is source code and licences of Python's standard library, held out from the model's training, as
    are names, numbers and wordings of the facts. Raises LocalError if the job did not succeed.
    """
    console.print(f"Planting {FACTS} facts in {tokens:,} tokens of Python's library source and licences")
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    document = document_of_tokens(tokenizer, tokens, FACTS, seed=0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a-million-tokens.txt"
        path.write_text(document.text)
        console.print(f"POST /v1/documents  {path.stat().st_size / MIB:.1f} MiB")
        uploaded = client.upload(path)
    job, result = run(
        client,
        document_id=uploaded["id"],
        questions=[planted.fact.question for planted in document.facts],
        policy=policy or POLICY,
        cache_budget=cache_budget,
        max_output_tokens=OUTPUT_TOKENS,
    )
    answers = [answer["text"].strip().rstrip(".") for answer in result["answers"]]
    table = Table("depth", "question", "truth", "answer", "", box=None, pad_edge=False)
    found = 0
    for planted, answer in zip(document.facts, answers, strict=True):
        fact = planted.fact
        found += answer == fact.answer
        mark = "[green]found[/]" if answer == fact.answer else "[red]lost[/]"
        table.add_row(f"{planted.depth:.0%}", fact.question, fact.answer, answer, mark)
    console.print(table)
    console.print(f"\n[bold]{found} of {FACTS} facts found[/] (measured) by {answered_with(job)}")
    print_bill(client, job)
