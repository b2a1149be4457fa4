"""Filler between the facts: templated office prose, and ordinary text found on every machine with Python.

Every piece starts with a line break and ends in a visible character. A byte-level tokenizer that splits at
white space therefore gives the same tokens for separate pieces as for the joined text.
"""

import random
import re
import sysconfig
import zlib
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from namm_runtime.tasks.words import Split, sample_name, sample_number

_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "The committee met on schedule and approved the minutes of the previous session.",
        "Staff are reminded that travel must be booked through the internal portal.",
        "A copy of this notice was sent to {name} for the regional archive.",
        "The warehouse in {name} reported no delays during the last quarter.",
        "Section {number} of the handbook explains how expenses are reviewed.",
        "All figures in this chapter were checked twice before publication.",
        "{name} asked that the summary be shortened before it is sent to clients.",
        "Our auditors found the procedures to be in good order.",
        "The annual training day will cover safety, privacy and record keeping.",
        "Please keep printed copies in a locked cabinet at the end of each day.",
        "Room {number} remains closed while the heating is being repaired.",
        "Several departments have moved to the new building near {name}.",
        "The supplier confirmed that spare parts are held in stock.",
        "Questions about this policy should be addressed to the office manager.",
        "Form {number} replaces all earlier versions and takes effect at once.",
        "In general, the terms agreed with {name} remain unchanged for this year.",
        "The marketing group presented its plans for the coming season.",
        "Visitors must sign the register and wear a badge at all times.",
        "Market conditions were stable and demand followed the usual pattern.",
        "A detailed breakdown can be found in appendix {number} of the report.",
        "The board thanked {name} and {name} for their work on the project.",
        "Maintenance of the lifts is planned for the second week of the month.",
        "Where the two documents differ, the signed version shall prevail.",
        "Backups are made every night and kept for {number} hours.",
    ),
    "validation": (
        "Minutes were circulated late because the printer on the third floor had failed.",
        "The delegation from {name} toured the plant and praised its tidy workshops.",
        "Paragraph {number} was struck out after a short debate.",
        "New colleagues receive a laptop and a key card on their first morning.",
        "Nobody objected when {name} proposed to postpone the vote.",
        "Parking permits are renewed by reception, not by the facilities desk.",
    ),
    "test": (
        "Rainfall had delayed the surveyors, yet the drawings arrived before noon.",
        "The canteen will offer a vegetarian menu throughout the spring.",
        "According to {name}, the negotiations had been cordial but slow.",
        "Locker {number} has been assigned to the night shift.",
        "Subscribers in {name} were informed by letter and by telephone.",
        "It was agreed to revisit the matter once the harvest figures are known.",
        "Clause {number} concerns insurance during transport by sea.",
        "Both parties waived their right to appeal, and {name} closed the file.",
        "The elevator music was the subject of a surprisingly long discussion.",
        "A translator accompanied the visitors from {name} to the harbour.",
    ),
}

# Sentences of the flavours: each mixes its own with the office ones.
_FLAVOURS: dict[str, dict[Split, tuple[str, ...]]] = {
    "contract": {
        "train": (
            "{number}.1 The lessee shall keep the premises in good repair at its own expense.",
            "{number}.2 Notice is deemed received two days after it was posted to {name}.",
            "WHEREAS the parties wish to continue their cooperation with {name};",
            "Neither party is liable for delays caused by events beyond its control.",
            "This agreement is governed by the law of the place of performance.",
            "Amendments are valid only if made in writing and signed by {name}.",
        ),
        "validation": (
            "{number}.3 The deposit bears no interest.",
            "Should a provision be void, the others remain in force.",
        ),
        "test": (
            "{number}.4 Subletting to {name} requires prior consent of the landlord.",
            "Termination for cause remains possible at any moment.",
            "The annexes listed on page {number} form an integral part hereof.",
        ),
    },
    "invoice": {
        "train": (
            "Payment is due within thirty days without deduction.",
            "Goods remain the property of {name} until paid in full.",
            "Please quote reference {number} with every transfer.",
            "Delivery address: {name} Street {number}.",
            "Item {number}    1    piece    as ordered",
            "Tax is shown separately at the foot of each page.",
        ),
        "validation": (
            "Late payment is charged at the legal rate.",
            "Packed by {name}, {number} boxes.",
        ),
        "test": (
            "Returns are accepted in original wrapping only.",
            "Article {number}    2    crates    back-ordered",
            "Freight was prepaid by {name}.",
        ),
    },
    "minutes": {
        "train": (
            "{name} opened the meeting and welcomed the guests.",
            "{name} presented slide {number} and took questions.",
            "There was a short break, after which {name} took the chair.",
            "No other business was raised.",
            "Apologies were received from {name} and {name}.",
            "The next session will be held in room {number}.",
        ),
        "validation": (
            "{name} left early to catch a train.",
            "A show of hands settled item {number}.",
        ),
        "test": (
            "{name} seconded the motion without comment.",
            "Coffee was served while {name} repaired the projector.",
            "Attendance sheet {number} was passed around.",
        ),
    },
}

_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
)
_SUFFIXES = frozenset({".py", ".txt"})
_BLOCK_CHARS = (80, 420)
_WORD = re.compile(r"\b[a-z]{4,10}\b")
# Even classes of the path's checksum are for training; odd ones are held out, most of them for the test
# split.
FILE_CLASSES: dict[Split, tuple[int, ...]] = {"train": (0, 2, 4, 6), "validation": (1,), "test": (3, 5, 7)}


def business_pieces(rng: random.Random, split: Split, flavour: str | None = None) -> Iterator[str]:
    """Yield office paragraphs of one to four sentences endlessly; half of them are a flavour's, if given."""
    while True:
        templates = _FLAVOURS[flavour][split] if flavour and rng.random() < 0.5 else _TEMPLATES[split]
        chosen = rng.choices(templates, k=rng.randint(1, 4))
        yield "\n" + " ".join(_fill(template, rng, split) for template in chosen)


def _fill(template: str, rng: random.Random, split: Split) -> str:
    while "{name}" in template:
        template = template.replace("{name}", sample_name(rng, split), 1)
    return template.replace("{number}", str(sample_number(rng, split, rng.choice((3, 4)))))


def ordinary_pieces(rng: random.Random, split: Split) -> Iterator[str]:
    """Yield blocks of lines from the standard library endlessly, file by file in a seeded order."""
    paths = list(ordinary_files(split))
    while True:
        rng.shuffle(paths)
        for path in paths:
            yield from _blocks(_read(path), rng)


@cache
def ordinary_words() -> tuple[str, ...]:
    """The distinct lower-case words of the standard library's training files, in alphabetical order."""
    texts = (_read(path) for path in ordinary_files("train"))
    return tuple(sorted({word for text in texts for word in _WORD.findall(text)}))


@cache
def ordinary_files(split: Split) -> tuple[Path, ...]:
    """The standard library's source and licence files of a split, sorted by relative path.

    Raises RuntimeError if this Python has no readable library source (a zipped or stripped installation).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    relative = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in _SUFFIXES and not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    )
    chosen = [root / name for name in relative if zlib.crc32(name.encode()) % 8 in FILE_CLASSES[split]]
    files = tuple(path for path in chosen if path.is_file() and _read(path).strip())
    if not files:
        raise RuntimeError(f"no standard library source files under {root}; use business filler instead")
    return files


@lru_cache(maxsize=1024)
def _read(path: Path) -> str:
    """A file's text; empty if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return ""


def _blocks(text: str, rng: random.Random) -> Iterator[str]:
    lines: list[str] = []
    size, target = 0, rng.randint(*_BLOCK_CHARS)
    for line in text.splitlines():
        lines.append(line)
        size += len(line) + 1
        if size >= target and line.strip():
            yield "\n" + "\n".join(lines).rstrip()
            lines, size, target = [], 0, rng.randint(*_BLOCK_CHARS)
    if rest := "\n".join(lines).rstrip():
        yield "\n" + rest
