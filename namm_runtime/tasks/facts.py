"""Facts that a document can contain, such as "Invoice 4821 total: 9310.", and sampling of sets of facts."""

import random
from dataclasses import dataclass

from namm_runtime.tasks.words import Split, sample_name, sample_number

RECORDS = (
    "Invoice",
    "Order",
    "Shipment",
    "Contract",
    "Ticket",
    "Account",
    "Parcel",
    "Claim",
    "Permit",
    "Lease",
    "Quote",
    "Voucher",
    "Batch",
    "Booking",
    "Audit",
    "Tender",
)
NUMERIC_FIELDS = ("total", "balance", "quantity", "weight", "deposit", "reference")
NAME_FIELDS = ("owner", "city", "carrier")
FIELDS = NUMERIC_FIELDS + NAME_FIELDS

_VALUE_DIGITS = (3, 4, 4, 4, 5, 6)
# About this many facts share an id, so that an id alone never determines the answer.
_FACTS_PER_ID = 2.5
# In training, this share of the facts has the same field as another fact with the same id, so that only the
# record distinguishes them: the token furthest back, which a model otherwise learns to use last or never.
_SAME_FIELD_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Fact:
    """A planted statement; the question is its verbatim beginning."""

    record: str
    number: int
    field: str
    answer: str

    @property
    def question(self) -> str:
        """Text to ask with, e.g. "Invoice 4821 total:"."""
        return f"{self.record} {self.number} {self.field}:"

    @property
    def prompt(self) -> str:
        """The prompt for the model: a line break and the question."""
        return f"\n{self.question}"

    @property
    def completion(self) -> str:
        """What the model should write after the prompt, e.g. " 9310."."""
        return f" {self.answer}."

    @property
    def sentence(self) -> str:
        """The statement as it occurs in a document, e.g. "\\nInvoice 4821 total: 9310."."""
        return self.prompt + self.completion


def sample_facts(n_facts: int, rng: random.Random, split: Split) -> list[Fact]:
    """Draw `n_facts` with distinct questions; ids, records and fields repeat between them as distractors."""
    ids: list[int] = []
    taken: set[tuple[str, int, str]] = set()
    facts: list[Fact] = []
    while len(facts) < n_facts:
        if not ids or rng.random() < 1 / _FACTS_PER_ID:
            ids.append(sample_number(rng, split, 4))
        # Recent ids are reused most, which yields facts that differ only in the record or the field.
        number = rng.choice(ids[-3:])
        field = rng.choice(FIELDS)
        if split == "train" and rng.random() < _SAME_FIELD_SHARE:
            field = next((fact.field for fact in reversed(facts) if fact.number == number), field)
        key = (rng.choice(RECORDS), number, field)
        if key in taken:
            continue
        taken.add(key)
        facts.append(Fact(*key, answer=_sample_answer(key[2], rng, split)))
    rng.shuffle(facts)
    return facts


def _sample_answer(field: str, rng: random.Random, split: Split) -> str:
    if field in NAME_FIELDS:
        return sample_name(rng, split)
    return str(sample_number(rng, split, rng.choice(_VALUE_DIGITS)))
