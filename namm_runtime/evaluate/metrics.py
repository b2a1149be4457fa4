"""Metrics that score an answer from 0 to 1.

Our own families use exact, recall, f1, rouge_l, edit and classification. The others are those of the public
benchmarks; their repositories are the source of each rule, and docs/how-to/evaluate-policies.md names the
differences.
If an item has several answers, the best match counts, except for recall and contains_all.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from namm_runtime.evaluate.replies import classify
from namm_runtime.tasks.item import Item
from namm_runtime.tasks.public.question import Question

Pair = Callable[[str, str], float]  # answer, truth → score

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_WORDS = re.compile(r"[^\s:\"'.,?!{}]+")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A word, or one character of a script that is written without spaces.
_UNITS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


class _Units(Tokenizer):  # type: ignore[misc]
    """For any script; rouge-score's own tokenizer supports only ASCII letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return _UNITS.findall(text.lower())


_rouge_l = RougeScorer(["rougeL"])
_rouge_l_units = RougeScorer(["rougeL"], tokenizer=_Units())
_rouge_lsum = RougeScorer(["rougeLsum"])


def score_answer(answer: str, item: Item) -> float:
    """Score `answer` by the item's metric → 0 to 1.

    Raises:
        KeyError: for an unknown metric; readers refuse such files.
    """
    return METRICS[item.metric](answer, item)


def _best(pair: Pair) -> Callable[[str, Item], float]:
    """The best over all correct answers; only the first line counts if the benchmark says so."""

    def marked(answer: str, item: Item) -> float:
        if isinstance(item, Question) and item.first_line:
            answer = answer.lstrip("\n").split("\n")[0]
        return max(float(pair(answer, truth)) for truth in item.answers)

    return marked


def _exact(answer: str, truth: str) -> float:
    """Equal except for case, spacing and a final full stop."""
    return _plain(answer) == _plain(truth)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def _recall(answer: str, item: Item) -> float:
    """Share of the correct answers that occur in it as whole words."""
    text = " ".join(answer.casefold().split())
    found = [
        re.search(rf"(?<!\w){re.escape(' '.join(truth.casefold().split()))}(?!\w)", text) is not None
        for truth in item.answers
    ]
    return sum(found) / len(found)


def _contains_all(answer: str, item: Item) -> float:
    """RULER's string_match_all: share of the correct answers that occur in it, also inside words."""
    return sum(truth.lower() in answer.lower() for truth in item.answers) / len(item.answers)


def _contains(answer: str, truth: str) -> float:
    """RULER's string_match_part, with the best over all answers."""
    return truth.lower() in answer.lower()


def _f1(answer: str, truth: str) -> float:
    """Word overlap, ignoring case, punctuation and articles (SQuAD's F1, LongBench's qa_f1)."""
    return _overlap(_normal(answer).split(), _normal(truth).split())


def _normal(text: str) -> str:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION))


def _f1_units(answer: str, truth: str) -> float:
    """The same for scripts without spaces: character overlap."""
    return _overlap(_UNITS.findall(answer.lower()), _UNITS.findall(truth.lower()))


def _overlap(answer: Sequence[str], truth: Sequence[str]) -> float:
    same = sum((Counter(answer) & Counter(truth)).values())
    return 2 * same / (len(answer) + len(truth)) if same else 0.0


def _rouge(scorer: RougeScorer, kind: str) -> Pair:
    return lambda answer, truth: scorer.score(truth, answer)[kind].fmeasure


def _edit(answer: str, truth: str) -> float:
    """Edit similarity of the first line that is code (LongBench's code_sim)."""
    lines = answer.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(sign in line for sign in ("`", "#", "//"))), "")
    return fuzz.ratio(line, truth) / 100


def _classification(answer: str, item: Item) -> float:
    """1 / number of classes named in the first line, if the correct one is among them."""
    line = answer.lstrip("\n").split("\n")[0]
    classes = item.classes if isinstance(item, Question) and item.classes else item.answers
    named = [name for name in classes if name in line]
    best = 0.0
    for truth in item.answers:
        # A class whose name is part of the correct one's name does not count as named.
        left = [name for name in named if name == truth or name not in truth]
        best = max(best, 1 / len(left) if truth in left else 0.0)
    return best


def _number(answer: str, truth: str) -> float:
    """Share of the answer's numbers that are correct (LongBench's count and retrieval)."""
    right = re.findall(r"\d+", truth)
    numbers = re.findall(r"\d+", answer)
    return numbers.count(right[0]) / len(numbers) if numbers and right else 0.0


def _first_number(answer: str, truth: str) -> float:
    found = _NUMBER.search(answer)
    if found is None:
        return 0.0
    return found.group() == truth or ("." in truth and float(found.group()) == float(truth))


def _last_number(answer: str, truth: str) -> float:
    found = re.findall(r"-?\d+", answer)
    return bool(found) and found[-1] == truth


def _leading_numbers(answer: str, item: Item) -> float:
    """Share of the expected numbers given before the first wrong one (InfiniteBench's math_calc)."""
    numbers = re.findall(r"\d+", answer)
    right = 0
    for number, truth in zip(numbers, item.answers, strict=False):
        if number != truth:
            break
        right += 1
    return right / len(item.answers)


def _word(answer: str, truth: str) -> float:
    return truth.casefold() in {word.casefold() for word in _WORDS.findall(answer)}


def _choice(answer: str, item: Item) -> float:
    """A letter from A to D: at the start, after "answer is" or similar, else the first that stands alone.

    An answer that spells out the correct option instead of its letter is correct as well.
    """
    letters, texts = [truth for truth in item.answers if truth in "ABCD"], item.answers
    patterns = (
        r"^\s*([A-D])(?![A-Za-z])",
        r"(?:answer|option)(?: is)?:?\s+([A-D])(?![A-Za-z])",
        r"\b([A-D])\b",
    )
    for pattern in patterns:
        if found := re.search(pattern, answer):
            return found.group(1) in letters
    return any(truth in answer for truth in texts if truth not in letters)


def _not_found(answer: str, item: Item) -> float:
    """Whether the answer says that the document does not hold it."""
    return classify(answer, item.input) == "not_found"


METRICS: dict[str, Callable[[str, Item], float]] = {
    "exact": _best(_exact),
    "recall": _recall,
    "f1": _best(_f1),
    "rouge_l": _best(_rouge(_rouge_l, "rougeL")),
    "edit": _best(_edit),
    "classification": _classification,
    "contains": _best(_contains),
    "contains_all": _contains_all,
    "f1_characters": _best(_f1_units),
    "rouge_l_characters": _best(_rouge(_rouge_l_units, "rougeL")),
    "rouge_lsum": _best(_rouge(_rouge_lsum, "rougeLsum")),
    "number": _best(_number),
    "first_number": _best(_first_number),
    "last_number": _best(_last_number),
    "leading_numbers": _leading_numbers,
    "word": _best(_word),
    "choice": _choice,
    "not_found": _not_found,
}
