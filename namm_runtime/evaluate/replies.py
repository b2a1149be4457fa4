"""Replies to questions that a document does not answer: "not found", an invention, or neither."""

import re
from typing import Literal

_NOT_FOUND = re.compile(
    r"\bnot\s+(?:\w+\s+)?(?:found|mention|specif|stat|given|provid|availabl|known|clear|includ|contain|say|"
    r"list|indicat|describ|defin|possible|appear)|\b(?:does|do|did|is|was)n['’]t\s+(?:\w+\s+)?(?:mention|specif|stat|say|"
    r"giv|provid|contain|includ|found|list|appear)|\bno\s+(?:\w+\s+)?(?:information|mention|answer|data|record|such)|"
    r"\bunknown\b|\bcannot\s+(?:be\s+)?(?:determin|find|found|answer|say)|\bunable\s+to\b|\bn/a\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<![.!?:\n]\s)(?<!^)\b[A-Z][a-z]+")

Reply = Literal["not_found", "invented", "other"]


def classify(answer: str, question: str) -> Reply:
    """Classify a reply to a question that the document does not answer.

    `not_found` if it says so in one of many wordings. Otherwise `invented` if it states a value that is not
    in the question: a number, or a name (a capitalised word that does not begin a sentence or a line).
    Everything else, such as an empty reply or one about something else, is `other`.
    """
    if _NOT_FOUND.search(answer):
        return "not_found"
    known = set(re.findall(r"\w+", question))
    stated = re.findall(r"\d+", answer) + _NAME.findall(answer)
    return "invented" if any(value not in known for value in stated) else "other"
