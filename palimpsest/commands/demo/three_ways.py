"""The step of the demo that asks about one document with the full cache, read guided, and read open."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from palimpsest.commands.demo.job import MIB, console, one_line, print_bill, run
from palimpsest.commands.demo.questions import Example, Question
from palimpsest_client import Client

OUTPUT_TOKENS = 48
SHARE = 4  # the pruned caches have slots for a quarter of the document's tokens
SLOT_STEP = 64  # a budget is a multiple of it
SUMMARY_WORDS = 150


@dataclass(frozen=True)
class Way:
    """How the document is read.

    Attributes:
        reading: `guided` by the questions or `open`; None where nothing is evicted.
    """

    name: str
    policy: str
    reading: str | None = None

    @property
    def described(self) -> str:
        """For people."""
        if self.reading is None:
            return "nothing is evicted"
        known = "knows the questions" if self.reading == "guided" else "does not know the questions"
        return f"policy {self.policy}, {known} while it reads"


@dataclass(frozen=True)
class Reading:
    """What one way gave: the job, the answers in the order of the questions, and what was used."""

    way: Way
    job: dict[str, Any]
    answers: list[dict[str, Any]]
    usage: dict[str, Any]


def ways(policy: str | None) -> tuple[Way, Way, Way]:
    """The three ways; `policy` replaces the policies of the two that prune."""
    # Without questions KeyDiff loses least of the policies that need no training for the model.
    return (
        Way("full", "full"),
        Way("guided", policy or "snapkv", "guided"),
        Way("open", policy or "keydiff", "open"),
    )


def compare(client: Client, example: Example, policy: str | None, cache_budget: int | None) -> list[Reading]:
    """Ask the questions three ways, and print the answers beside the truth. Raises LocalError."""
    path = example.document
    console.print(f"POST /v1/documents  {path.name}, {path.stat().st_size / 1024:.0f} KiB")
    document_id = client.upload(path)["id"]
    readings: list[Reading] = []
    for way in ways(policy):
        slots = cache_budget if way.reading else None
        if way.reading and slots is None:
            slots = budget_for(readings[0].usage["tokens_document"])
        job, result = run(
            client,
            document_id=document_id,
            questions=[question.ask for question in example.questions],
            policy=way.policy,
            reading=way.reading,
            cache_budget=slots,
            max_output_tokens=OUTPUT_TOKENS,
        )
        readings.append(Reading(way, job, result["answers"], result["usage"]))
    print_answers(example.questions, readings)
    print_counts(example.questions, readings)
    return readings


def budget_for(tokens: int) -> int:
    """Slots per head for a document of so many tokens: a quarter of it, rounded down."""
    return max(SLOT_STEP, tokens // SHARE // SLOT_STEP * SLOT_STEP)


def print_answers(questions: tuple[Question, ...], readings: list[Reading]) -> None:
    """Each question with its truth, and below it the answers."""
    table = Table("", "", "", "evicted\nattention", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for number, question in enumerate(questions):
        about = f" ({question.about})" if question.about else ""
        table.add_row("[bold]asked[/]", f"[bold]{one_line(question.ask)}[/]{about}")
        table.add_row("truth", one_line(question.truth))
        for reading in readings:
            answer = reading.answers[number]
            mark = "[green]right[/]" if question.is_right(answer["text"]) else "[red]wrong[/]"
            table.add_row(reading.way.name, one_line(answer["text"]), mark, _percent(answer))
        table.add_row()
    console.print(table)


def print_counts(questions: tuple[Question, ...], readings: list[Reading]) -> None:
    """How many answers are right, and what the caches held."""
    table = Table("", "right", "cache", "tokens kept", "read in", "", box=None, pad_edge=False)
    for column in table.columns[1:5]:
        column.justify = "right"
    for reading in readings:
        used = reading.usage
        seconds = used["seconds"]["read"] + used["seconds"]["score"]
        right = sum(
            question.is_right(answer["text"])
            for question, answer in zip(questions, reading.answers, strict=True)
        )
        table.add_row(
            f"[bold]{reading.way.name}[/]",
            f"[bold]{right} of {len(questions)}[/]",
            f"{used['kept_bytes'] / MIB:,.0f} MiB",
            f"{used['tokens_kept']:,.0f} of {used['tokens_read']:,}",
            f"{seconds:,.0f} s",
            reading.way.described,
        )
    console.print(table)
    slots = readings[-1].job["cache_budget"]
    console.print(
        f"Guided and open keep {slots:,} slots per head at an eviction, and what was read since. An answer\n"
        "is right if it contains the truth. Evicted attention: the share of the question's attention that\n"
        "fell on tokens evicted since."
    )


def summarize(client: Client, readings: list[Reading]) -> None:
    """Summarize the document with the full cache and guided. Raises LocalError."""
    for reading in readings:
        if reading.way.reading == "open":
            continue
        job, result = run(
            client,
            document_id=reading.job["document_id"],
            task="summarize",
            words=SUMMARY_WORDS,
            policy=reading.way.policy,
            reading=reading.way.reading,
            cache_budget=reading.job["cache_budget"],
        )
        console.print(f"\n[bold]Summary, {reading.way.name}[/] ({reading.way.described})")
        for answer in result["answers"]:
            console.print(answer["text"].strip(), markup=False)
        points = [point for answer in result["answers"] for point in answer.get("points") or []]
        exact, near = (sum(point["match"] == kind for point in points) for kind in ("exact", "near"))
        console.print(
            f"Of {len(points)} points {exact} are in the document word for word, {near} nearly (measured)\n"
        )
        print_bill(client, job)


def _percent(answer: dict[str, Any]) -> str:
    share = answer.get("evicted_attention")
    return "" if share is None else f"{share:.0%}"
