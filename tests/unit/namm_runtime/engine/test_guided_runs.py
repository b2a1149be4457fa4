"""Requests are guided by their prompts, read again for answers at risk, and warned about."""

from dataclasses import replace

import pytest

from namm_runtime.engine import Engine, Refusal, Request, answering, warnings
from namm_runtime.engine.memory import Memory
from namm_runtime.engine.plan import Plan
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies import default_for, make
from namm_runtime.scorer import checkpoint
from namm_runtime.tasks import Document, make_document


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return replace(load_model("bundled"), window=1024)


@pytest.fixture(scope="module")
def document() -> Document:
    """About 1,700 tokens."""
    return make_document(5_000, 4, seed=5, split="test", filler="business")


@pytest.fixture
def request_of(tmp_path, document):
    path = tmp_path / "document.txt"
    path.write_text(document.text)
    questions = tuple(planted.fact.question for planted in document.facts)
    defaults = {"policy": "keydiff", "budget": 128, "max_output_tokens": 8}
    return lambda **kwargs: Request(path, questions, **(defaults | kwargs))


def test_a_request_with_prompts_is_guided(bundled, request_of):
    run = Engine(bundled).complete(request_of())
    assert run.usage.reading == "guided"
    assert all(answer.guided and 0 < answer.evicted_attention < 1 for answer in run.answers)


def test_open_reading_knows_no_prompts(bundled, request_of):
    run = Engine(bundled).complete(request_of(reading="open"))
    assert run.usage.reading == "open"
    assert all(not answer.guided and answer.evicted_attention is None for answer in run.answers)


def test_guided_reading_keeps_what_open_reading_loses(bundled, request_of, document):
    right = {}
    for reading in ("guided", "open"):
        run = Engine(bundled).complete(request_of(policy="streaming", reading=reading))
        truths = (planted.fact.answer for planted in document.facts)
        right[reading] = sum(t in a.text for t, a in zip(truths, run.answers, strict=True))
    assert right["guided"] > right["open"]


def test_a_full_cache_is_read_openly(bundled, request_of):
    whole = replace(bundled, window=16_384)
    run = Engine(whole).complete(request_of(policy="full"))
    assert run.usage.reading == "open"


@pytest.mark.parametrize("field", ["reading", "on_risk"])
def test_unknown_words_are_refused(bundled, request_of, field):
    with pytest.raises(Refusal, match=f"{field} must be one of") as refused:
        Engine(bundled).admit(request_of(**{field: "sideways"}))
    assert refused.value.code == "bad_request"


def test_answers_at_risk_are_read_again_with_twice_the_budget(bundled, request_of, monkeypatch):
    usual = Engine(bundled).complete(request_of())
    evicted = sorted(answer.evicted_attention for answer in usual.answers)
    monkeypatch.setattr(answering, "RISK", (evicted[1] + evicted[2]) / 2)  # two of four are at risk
    reported = Engine(bundled).complete(request_of())
    assert [answer.at_risk for answer in reported.answers].count(True) == 2
    assert reported.usage.rereads == 0
    run = Engine(bundled).complete(request_of(on_risk="reread"))
    assert run.usage.rereads == 1
    assert run.usage.budget == 256
    assert run.usage.tokens_read == 2 * usual.usage.tokens_read
    assert [answer.prompt for answer in run.answers] == list(run.request.prompts)
    for again, before in zip(run.answers, reported.answers, strict=True):
        if before.at_risk:
            assert again.evicted_attention < before.evicted_attention
        else:
            assert again == before


def test_a_reread_resumes_from_its_snapshot(bundled, request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "RISK", 0.0)
    wanted = request_of(on_risk="reread")
    straight = Engine(bundled).complete(wanted)
    engine = Engine(bundled)
    run = engine.admit(wanted)
    while not (run.usage.rereads and run.phase == "answering"):
        engine.step()
    run.snapshot(tmp_path / "snapshot")
    engine.release(run)
    resumed = Engine(bundled).complete(wanted, tmp_path / "snapshot")
    assert resumed.answers == straight.answers
    assert resumed.usage.rereads == 1
    assert resumed.usage.tokens_read == straight.usage.tokens_read


def test_where_no_larger_budget_fits_that_is_said(bundled, request_of, monkeypatch):
    monkeypatch.setattr(answering, "RISK", 0.0)
    run = Engine(bundled).complete(request_of(on_risk="reread", budget=512))
    assert run.usage.rereads == 0
    assert "reread_not_possible" in [warning["code"] for warning in run.usage.warnings]


def test_slots_that_pile_up_are_reported(bundled, request_of, document):
    plan = Plan.of(request_of(), bundled)
    memory = Memory(bundled, make("streaming", 128), 128)
    memory.feed(bundled.encode(document.text)[:, :1536])
    shares = warnings.slots_by_fifth(memory)
    assert shares.tolist() == pytest.approx([4 / 128, 0, 0, 0, 124 / 128])
    run = Engine(bundled).complete(request_of(policy="streaming", reading="open"))
    assert run.usage.warnings == []  # that is what it is for
    found = warnings.of(memory, plan, replace(run.usage))
    assert [warning["code"] for warning in found] == ["slots_piled_up"]
    assert "97% of what the policy 'keydiff' kept is in the last fifth" in found[0]["message"]


def test_a_scorer_on_a_model_it_was_not_measured_on_is_reported(bundled, request_of):
    other = replace(bundled, name="other", revision="0123456789ab")
    run = Engine(other).complete(request_of(policy="namm"))
    assert "scorer_not_measured" in [warning["code"] for warning in run.usage.warnings]
    assert default_for(other)[0] == "keydiff"
    assert "was fitted to the model 'other'" in default_for(other)[1]
    assert default_for(bundled)[0] == "namm-key"
    run = Engine(bundled).complete(request_of(policy="namm"))
    assert "scorer_not_measured" not in [warning["code"] for warning in run.usage.warnings]
    assert checkpoint.resolve("namm").path.exists()
