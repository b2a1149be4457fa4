"""The words that statements, questions and instructions of the families consist of, by split."""

from namm_runtime.tasks.facts import FIELDS, RECORDS
from namm_runtime.tasks.words import Split

STATUSES = ("final", "draft", "estimate", "forecast", "quoted", "planned", "copied", "void")
REVISIONS = tuple("ABCDEFGH")
REMARKS = ("Remark", "Comment", "Aside", "Query", "Motion", "Reply")
VERBS: dict[Split, tuple[str, ...]] = {
    "train": ("Recall", "State", "Repeat", "Show", "Say", "Quote", "Name", "Read"),
    "validation": ("Confirm", "Cite"),
    "test": ("Give", "Tell", "Report"),
}
INSTRUCTIONS: dict[Split, tuple[str, ...]] = {
    "train": (
        "\nRemember only the {field} of each record.",
        "\nOnly the {field} matters here.",
        "\nKeep every {field}, forget the rest.",
        "\nYou will be asked for the {field} alone.",
        "\nFor this review note each {field} and nothing else.",
        "\nAll questions are about the {field}.",
    ),
    "validation": ("\nNothing but the {field} counts below.", "\nWatch for the {field} entries."),
    "test": (
        "\nAttend to the {field} of the records, ignore other lines.",
        "\nRetain just the {field} lines.",
        "\nThis file is read for its {field} figures.",
    ),
}
DETERMINERS = ("the", "every", "each", "any", "all", "just", "its", "this")
VERBS_OF_POINTS: dict[Split, tuple[str, ...]] = {
    "train": (
        "approved",
        "rejected",
        "moved",
        "checked",
        "signed",
        "closed",
        "reviewed",
        "postponed",
        "drafted",
    ),
    "validation": ("renewed", "cited", "withdrew"),
    "test": ("shortened", "praised", "repaired", "revisited"),
}
THINGS: dict[Split, tuple[str, ...]] = {
    "train": ("plan", "budget", "room", "form", "section", "report", "policy", "summary", "project"),
    "validation": ("permit", "paragraph", "vote"),
    "test": ("clause", "locker", "page", "verdict"),
}
HELD_OUT_WORDS = frozenset(
    word for words in (VERBS_OF_POINTS, THINGS) for split in ("validation", "test") for word in words[split]
)


def task_words() -> list[str]:
    """The words of statements and questions of the training split, without names."""
    other = (
        "Key",
        "point",
        "See",
        "Trace",
        "Follow",
        "latest",
        "Most",
        "frequent",
        "All",
        "The",
        "room",
        "code",
    )
    train: Split = "train"
    lists = (
        RECORDS,
        FIELDS,
        STATUSES,
        REMARKS,
        other,
        VERBS[train],
        VERBS_OF_POINTS[train],
        THINGS[train],
    )
    return sorted({word for words in lists for word in words})
