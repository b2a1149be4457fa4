"""SmolLM2-135M-Instruct for the tests in `tests/real_llama`: fetched once, into the user's cache."""

import os
from pathlib import Path

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.model import fetching
from namm_runtime.model.catalogue import is_fetched
from namm_runtime.model.loading import LoadedModel, load_model

NAME = "smollm2-135m"
NO_DOWNLOADS = "PALIMPSEST_NO_DOWNLOADS"


def models_directory() -> Path:
    """Outside the repository and shared by all checkouts, as the model is large and never changes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palimpsest-tests" / "models"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The model's directory, as `namm model add` makes it."""
    models = models_directory()
    if os.environ.get(NO_DOWNLOADS) and not is_fetched(NAME, models):
        pytest.skip(f"{NO_DOWNLOADS} is set, and {NAME} is not in {models}")
    try:
        return fetching.add(NAME, models)
    except Refusal as refusal:
        pytest.fail(f"{refusal.code}: {refusal.message} (set {NO_DOWNLOADS}=1 to skip these tests)")


@pytest.fixture(scope="session")
def smollm2_model(smollm2: Path) -> LoadedModel:
    """The model in bf16 on the CPU."""
    return load_model(smollm2, dtype="bfloat16")
