"""A run small enough for a test, on the bundled model."""

import pytest

from namm_runtime.evolve.config import EvolutionConfig, Stage
from namm_runtime.model.loading import LoadedModel, load_model


@pytest.fixture(scope="session")
def bundled() -> LoadedModel:
    return load_model("bundled")


@pytest.fixture(scope="session")
def small() -> EvolutionConfig:
    return EvolutionConfig(
        name="small",
        version="1",
        stages=(Stage(("kv", "repeated"), 2), Stage(("distractors",), 2)),
        key_input=True,
        start="zero",
        budget=64,
        interval=128,
        tokens=512,
        questions=3,
        documents=2,
        population=4,
        group=2,
        validate_every=1,
        validation_documents=3,
        distil_documents=6,
        distil_rounds=2,
        distil_steps=20,
    )
