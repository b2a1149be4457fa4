"""A tiny model to read with."""

import pytest

from namm_runtime.model.loading import LoadedModel, load_model
from tests.support.tiny import save_tiny_llama


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(save_tiny_llama(tmp_path_factory.mktemp("tiny")))
