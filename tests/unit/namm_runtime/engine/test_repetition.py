"""Answers that loop are stopped and cut; lists, tables and repeated short lines are not."""

from dataclasses import dataclass

import pytest

from namm_runtime.bundled import MODEL_DIR
from namm_runtime.engine import Engine, Request
from namm_runtime.engine.answering import Answering
from namm_runtime.engine.memory import Memory
from namm_runtime.engine.repetition import LONGEST_BLOCK, loop_start
from namm_runtime.engine.sampling import Sampler
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies import make
from tests.support.tiny import save_tiny_llama

SENTENCE = "The supplier delivers the goods to the store of the customer, who pays for them. "


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return load_model("bundled")


def ids(text: str, bundled: LoadedModel) -> list[int]:
    encoded: list[int] = bundled.tokenizer(text, add_special_tokens=False)["input_ids"]
    return encoded


def stop(tokens: list[int]) -> tuple[int, int] | None:
    """How many tokens were there when the loop was noticed, and how many of them are kept."""
    for length in range(1, len(tokens) + 1):
        kept = loop_start(tokens[:length])
        if kept is not None:
            return length, kept
    return None


@pytest.mark.parametrize(
    ("block", "noticed"),
    [(1, 48), (2, 48), (5, 48), (6, 50), (10, 62), (32, 128), (100, 332), (LONGEST_BLOCK, 800)],
)
def test_a_loop_is_noticed_when_it_is_long_enough(block: int, noticed: int) -> None:
    before = [1000, 1001, 1002]
    looped = [token % block for token in range(900)]
    assert stop(before + looped) == (3 + noticed, 3 + block)


def test_longer_blocks_are_not_looked_for() -> None:
    assert stop([token % (LONGEST_BLOCK + 1) for token in range(1200)]) is None


def test_a_loop_that_ends_is_none() -> None:
    assert loop_start([4] * 60 + [5]) is None
    assert loop_start([4] * 60 + [5] + [4] * 47) is None


def test_all_but_the_first_copy_is_cut_wherever_the_loop_is_noticed() -> None:
    assert loop_start([7, 8, 9] + [4] * 500) == 4


@pytest.mark.parametrize(
    ("before", "unit"),
    [
        ("Invoice 4821 total: 99", "7"),
        ("It is ", "very, "),
        ("Summary. ", SENTENCE),
        ("Points:\n", f"- {SENTENCE}\n"),
        ("Points:\n", f"- {SENTENCE}\n- It is due in March.\n"),
    ],
)
def test_tokens_phrases_sentences_and_lines_that_loop(bundled: LoadedModel, before: str, unit: str) -> None:
    tokens = ids(before + unit * 300, bundled)
    found = stop(tokens)
    assert found is not None
    noticed, kept = (bundled.tokenizer.decode(tokens[:count]) for count in found)
    assert before.rstrip() in kept
    assert noticed.count(unit) >= 3
    assert kept.count(unit) <= max(1, 2 // len(unit))  # a token may hold two digits


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{number}. {SENTENCE}\n" for number in range(1, 40)),
        "".join(f"Step {number} of 40 is done.\n" for number in range(1, 41)),
        "| name | March | April | May |\n|---|---|---|---|\n"
        + "".join(f"| {name} | yes | yes | no |\n" for name in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Fay")),
        "".join(f"2027-03-{day:02}  0  0  0  0\n" for day in range(1, 32)),
        "Attendance\n" + "present\n" * 8,
        "yes. " * 8,
        "1,000,000,000,000 and " + "-" * 20 + "\n",
        "Row, row, row your boat, gently down the stream.\n" * 3,
        SENTENCE * 3,
    ],
)
def test_lists_tables_and_short_repetitions_pass(bundled: LoadedModel, text: str) -> None:
    assert stop(ids(text, bundled)) is None


def test_ordinary_text_passes(bundled: LoadedModel) -> None:
    text = (MODEL_DIR / "README.md").read_text()
    assert stop(ids(text, bundled)) is None


@dataclass
class Scripted(Sampler):
    """Chooses the tokens it was given, one after the other."""

    tokens: list[int]

    def __post_init__(self) -> None:
        super().__init__(0.0, 0)

    def choose(self, logits: object) -> int:
        return self.tokens.pop(0)


def answering(bundled: LoadedModel, text: str, limit: int) -> Answering:
    memory = Memory(bundled, make("keydiff", 64, None, "budget"), 64)
    memory.feed(bundled.encode("A document. "))
    return Answering(memory, ids("Total:", bundled), limit, Scripted(ids(text, bundled)))


def test_an_answer_that_loops_ends_with_a_reason_of_its_own(bundled: LoadedModel) -> None:
    one = answering(bundled, "The total is 99" + "4" * 300, 300)
    one.advance(300)
    assert one.reason == "repetition"
    assert one.text == "The total is 9944"  # of two digits a token
    assert len(one.produced) < 70


def test_a_limit_below_the_shortest_loop_ends_it_first(bundled: LoadedModel) -> None:
    one = answering(bundled, "4" * 300, 20)
    one.advance(300)
    assert (one.reason, len(one.produced)) == ("length", 20)


def test_a_resumed_answer_loops_at_the_same_token(tmp_path) -> None:
    """A random model loops soon; what it has produced is all that matters."""
    (tmp_path / "document.txt").write_text("Seven geese went north in June; the eighth one stayed. " * 20)
    request = Request(
        tmp_path / "document.txt", ("How many?", "Which?"), policy="keydiff", max_output_tokens=400
    )
    model = load_model(str(save_tiny_llama(tmp_path / "model")))
    straight = Engine(model).complete(request)
    assert {answer.finish_reason for answer in straight.answers} == {"repetition"}
    engine = Engine(model)
    run = engine.admit(request)
    while run.answering is None or len(run.answering.produced) < 32:
        engine.step()
    run.snapshot(tmp_path / "snapshot")
    engine.release(run)
    resumed = Engine(model).complete(request, tmp_path / "snapshot")
    assert resumed.answers == straight.answers
    assert resumed.usage.tokens_generated == sum(answer.tokens for answer in straight.answers)
