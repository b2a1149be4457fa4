"""The model card, generated from the training record so that no measured figure is typed by hand."""

from pathlib import Path
from typing import Any

Cells = list[dict[str, Any]]

# What each family asks of the model, in the order of the tables.
_FAMILIES = {
    "single": "one fact, asked in three wordings",
    "multi": "up to 24 facts",
    "kv": "up to 120 facts",
    "listing": "two or three values of one key, all of them in order",
    "tracking": "a chain of references",
    "frequent": "a key's most frequent code",
    "instructed": "the first line says which field matters",
    "overwritten": "the latest of several values",
    "distractors": "facts among others that look alike",
    "repeated": "facts said again and again",
    "keypoints": "sentences marked as key points, word for word",
}

# How a model differs from the first one.
_ROLES = {
    "main": "",
    "deep": "The second of two, of another shape than the first: scorers that were evolved on the first are\n"
    "tried on it unchanged (`namm evaluate --model bundled-deep`).\n\n",
}


def write_card(out: Path, record: dict[str, Any]) -> None:
    """Write README.md beside the model from the contents of training.json."""
    trained, minutes = record["log"][-1]["tokens"], record["log"][-1]["seconds"] / 60
    tokens, role = _policy_tokens(record["evaluation"]), _ROLES[record["shape"]]
    same = f"--shape {record['shape']} --seed {record['seed']}"
    commands = "\n".join(
        f"    python -m namm_runtime.training.train --out DIR{i} {same} --tokens {tokens}"
        + f" --start DIR{i - 1}" * (i > 1)
        + " --device cuda" * (device != "cpu")
        for i, (tokens, device) in enumerate(zip(record["tokens"], devices_of(record), strict=True), 1)
    )
    (out / "README.md").write_text(
        f"""# A demonstration model

{role}A Llama with {record["parameters"]:,} parameters, trained on {trained:,} tokens in {minutes:.0f}
minutes, with {_where(record)}. Its text consists of ordinary lines with
statements between them; asked about a statement, it gives the rest.

    document   ... Invoice 4821 total: 931044. ...
    prompt     "\\nInvoice 4821 total:"             or "\\nRecall Invoice 4821 total:"
    answer     " 931044."                          or "\\nThe total of Invoice 4821:"

It knows eleven kinds of such tasks, listed below, and nothing else. It cannot follow instructions, reason
or chat, and its reading of ordinary text is poor. It exists so that the whole service can be run and
measured without a download.

It is also made for the job in a way that no model found elsewhere is. It was trained to answer from a
cache that holds what matters, and {_marked_by(record)}
Policies that go by keys or by attention therefore find facts here far more easily than in an ordinary model.
Which policy is best on this model says nothing about which is best on yours.

## Recall with the whole cache

Answers that are right in every token, with the answers given (`python -m namm_runtime.training.evaluate`).
Test split: names, numbers, wordings and templates that occur nowhere in training, and library files from
the half that training never saw. Documents are of all four kinds of text. One training seed
({record["seed"]}).

{_lengths_table(record["evaluation"])}

## Recall with a small cache

The same at {tokens:,} tokens; the share is that of the document's tokens that each head keeps. "oracle"
keeps what the document's author knows to be needed. All of these are for orientation; the comparison with
intervals, and with the scorers, is `namm evaluate`.

{_policies_table(record["evaluation"])}

## How it was made

{commands}

Tokenizer and weights come from that{_code(record)}. The data is generated office prose with planted
statements, and the source and licence texts of Python's standard library, half of whose files are kept
for testing. {_again(record)} The log, with the running accuracy of each
family, is in `training.json`; its curves are in `training.svg`.
"""
    )


def devices_of(record: dict[str, Any]) -> list[str]:
    """The device of each phase; older records do not include it and were made on a CPU."""
    devices: list[str] = record.get("devices", ["cpu"] * len(record["tokens"]))
    return devices


def _where(record: dict[str, Any]) -> str:
    """The hardware of the training, in the order of use."""
    return " and then ".join(
        f"{record['threads']} thread of a CPU" if device == "cpu" else f"one {device}"
        for device in dict.fromkeys(devices_of(record))
    )


def _again(record: dict[str, Any]) -> str:
    """Whether the same commands give the same weights."""
    if set(devices_of(record)) == {"cpu"}:
        return "The same Python and torch give the same weights."
    return "On a GPU (`--device cuda`) no two runs end\nalike, and a core of a CPU needs hours."


def _marked_by(record: dict[str, Any]) -> str:
    """The losses that mark what matters."""
    keys = "keys of planted values are pushed\naway from the mean key,"
    looks = "later tokens are made to look at values that still matter"
    if "relevance_loss" not in record["log"][-1]:
        return f"two more losses mark what that is: {keys} and {looks}."
    return f"""three more losses mark what that is: {keys} {looks}, and where a document says
what it will be asked for (a first line, a word such as "final"), its first two layers have to tell which
statements that means."""


def _code(record: dict[str, Any]) -> str:
    """The commit of the training code, if it has changed since."""
    return f", with the code of commit {record['code']}" if "code" in record else ""


def _lengths_table(cells: Cells) -> str:
    lengths = sorted({cell["tokens"] for cell in cells if cell["policy"] == "full"})
    head = "| family | asks for | " + " | ".join(f"{tokens:,} tokens" for tokens in lengths) + " |"
    rows = [head, "|---|---|" + "---:|" * len(lengths)]
    for family, asks in _FAMILIES.items():
        found = [_cell(cells, family, tokens, "full", None) for tokens in lengths]
        rows.append(f"| {family} | {asks} | " + " | ".join(found) + " |")
    return "\n".join(rows)


def _policies_table(cells: Cells) -> str:
    tokens = _policy_tokens(cells)
    columns = list(dict.fromkeys((cell["policy"], cell["share"]) for cell in cells if cell["share"]))
    head = "| family | full | " + " | ".join(f"{policy} {share:.0%}" for policy, share in columns) + " |"
    rows = [head, "|---|---:|" + "---:|" * len(columns)]
    for family in _FAMILIES:
        found = [_cell(cells, family, tokens, *column) for column in (("full", None), *columns)]
        rows.append(f"| {family} | " + " | ".join(found) + " |")
    return "\n".join(rows)


def _policy_tokens(cells: Cells) -> int:
    return int(next(cell["tokens"] for cell in cells if cell["share"]))


def _cell(cells: Cells, family: str, tokens: int, policy: str, share: float | None) -> str:
    wanted = (family, tokens, policy, share)
    for cell in cells:
        if (cell["family"], cell["tokens"], cell["policy"], cell["share"]) == wanted:
            return f"{cell['right']} of {cell['questions']}"
    return "–"
