"""What a reading kept and saved: nothing where the document fits, and never more than all of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime.engine import Engine, Request
from namm_runtime.engine.usage import FITS, NO_BUDGET, Usage
from namm_runtime.model.loading import LoadedModel
from namm_runtime.model.prompts import Frame


@pytest.fixture(scope="module")
def templated(model: LoadedModel) -> LoadedModel:
    """Its chat template puts 20 tokens before a document."""
    twin = replace(model)
    vars(twin)["frame"] = Frame(tuple(range(65, 85)), "\n", "", templated=False)  # a cached property
    return twin


def read(model: LoadedModel, folder: Path, tokens: int, **asked: object) -> Usage:
    path = folder / "document.txt"
    path.write_text("x" * tokens)  # a token a byte
    settings = {"policy": "keydiff", "budget": 64, "interval": 64, "max_output_tokens": 2} | asked
    return Engine(model).complete(Request(path, ("Who?",), **settings)).usage  # type: ignore[arg-type]


def test_a_document_that_fits_is_kept_whole_and_saves_nothing(templated, tmp_path):
    usage = read(templated, tmp_path, 40)
    assert (usage.kept_fraction, usage.tokens_kept, usage.tokens_evicted) == (1.0, 40.0, 0.0)
    assert usage.kept_bytes == usage.dense_bytes == 60 * templated.dense_bytes_per_token
    assert usage.no_saving == FITS
    assert usage.to_dict().items() >= {"no_saving": FITS, "tokens_evicted": 0.0}.items()


def test_a_full_cache_keeps_everything_in_about_as_many_bytes(templated, tmp_path):
    usage = read(templated, tmp_path, 1500, policy="full", budget=None)
    assert (usage.kept_fraction, usage.tokens_evicted, usage.no_saving) == (1.0, 0.0, NO_BUDGET)
    assert usage.dense_bytes < usage.resident_bytes < 1.25 * usage.dense_bytes


def test_tokens_of_the_template_do_not_count_as_kept(templated, tmp_path):
    # Of 20 + 1,004 tokens, 64 are kept at the last eviction, at which none is left pending.
    usage = read(templated, tmp_path, 1004)
    assert usage.tokens_kept == pytest.approx(1004 * 64 / 1024)
    assert usage.tokens_kept + usage.tokens_evicted == pytest.approx(1004)
    assert usage.no_saving is None


def test_with_more_slots_in_use_than_the_document_has_tokens_what_was_evicted_still_counts(
    templated, tmp_path
):
    # 60 + 6 slots are in use, for a text of 50 tokens after 20 others, of which 4 in all are gone.
    usage = read(templated, tmp_path, 50, budget=60)
    assert usage.kept_fraction == pytest.approx(66 / 70)
    assert usage.tokens_evicted == pytest.approx(50 * 4 / 70)
    assert usage.no_saving is None


def test_before_the_first_token_nothing_is_said():
    assert Usage().no_saving is None
