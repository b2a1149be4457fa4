"""The model card, written from the training record so that no figure in it is typed by hand."""

from pathlib import Path
from typing import Any


def write_card(out: Path, record: dict[str, Any]) -> None:
    """Write README.md beside the model from the contents of training.json."""
    rows = "\n".join(
        f"| {row['filler']} | {row['tokens']:,} | {row['right'] / row['questions']:.3f}"
        f" | {row['questions']} |"
        for row in record["evaluation"]
    )
    last = record["log"][-1]
    (out / "README.md").write_text(
        f"""# A demonstration model

A Llama with {record["parameters"]:,} parameters, trained on one CPU core for {record["minutes"]:g} minutes
and {last["tokens"]:,} tokens. It does one thing: asked with the beginning of a statement in its text, it
gives the rest.

    document   ... Invoice 4821 total: 9310. ...
    prompt     "\\nInvoice 4821 total:"
    answer     " 9310."

It answers only questions that repeat a fact's wording. It cannot follow instructions, reason, summarise or
chat, and its reading of ordinary text is poor. It exists so that the whole service can be run and measured
without a download.

It is also made for the job in a way that no model found elsewhere is. Two training losses mark the planted
values: their keys are pushed away from the mean key, and later tokens are made to look at them. Policies
that go by keys or by attention therefore find facts here far more easily than in an ordinary model. Which
policy is best on this model says nothing about which is best on yours.

## Recall with the whole cache

Exact match of the model's first choices, test split: ids, values, names and office templates that occur
nowhere in training, and standard-library files from the half that training never saw. One training seed
({record["seed"]}).

| filler | tokens | exact match | questions |
|---|---:|---:|---:|
{rows}

## How it was made

`python -m namm_runtime.bundled.train --out DIR --seed {record["seed"]} --minutes {record["minutes"]:g}`

The tokenizer and the weights come from that one command. Its data is generated office prose with planted
facts, and the source and licence texts of Python's standard library, half of whose files are kept for
testing. Training stops by the clock, so another machine gives slightly different weights. The log is in
`training.json`.
"""
    )
