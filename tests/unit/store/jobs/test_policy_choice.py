"""Which policy a job gets, and the reason it is given."""

import pytest

from store.jobs import policy_choice
from store.jobs.policy_choice import FALLBACK, FOR_THE_SCORER, NAMED, SET, UNKNOWN_YET, Choice, choose
from store.settings import Settings
from store.workers import ModelCard

UNKNOWN = ModelCard("m")
HEURISTIC = ModelCard("m", default_policy="keydiff", default_policy_reason="The tables show it best.")
LEARNED = ModelCard("m", default_policy="namm", default_policy_reason="Measured on this model.")
BEST = Choice("keydiff", "The tables show it best.")


@pytest.mark.parametrize(
    ("setting", "card", "policy", "scorer", "expected"),
    [
        (None, HEURISTIC, None, None, BEST),
        (None, HEURISTIC, "snapkv", None, Choice("snapkv", NAMED)),
        (None, UNKNOWN, "snapkv", None, Choice("snapkv", NAMED)),
        ("h2o", HEURISTIC, None, None, Choice("h2o", SET)),
        ("h2o", UNKNOWN, None, None, Choice("h2o", SET)),
        (None, UNKNOWN, None, None, Choice(FALLBACK, UNKNOWN_YET, pending=True)),
        # A scorer needs a policy that uses it; the operator's is taken even so, and the request refused.
        (None, HEURISTIC, None, "mine@1", Choice(FALLBACK, FOR_THE_SCORER)),
        (None, UNKNOWN, None, "mine@1", Choice(FALLBACK, FOR_THE_SCORER)),
        (None, LEARNED, None, "mine@1", Choice("namm", "Measured on this model.")),
        ("h2o", LEARNED, None, "mine@1", Choice("h2o", SET)),
    ],
)
def test_choice(
    setting: str | None, card: ModelCard, policy: str | None, scorer: str | None, expected: Choice
) -> None:
    assert choose(Settings(default_policy=setting), card, policy, scorer) == expected


def test_policies_that_use_a_scorer_are_known_without_loading_the_runtime() -> None:
    from namm_runtime import policies

    for name in policies.names():
        assert policy_choice.uses_scorer(name) == (policies.scorer_of(name) is not None), name
