"""What `dtype=auto` stands for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from namm_runtime.errors import Refusal
from namm_runtime.model import dtype_choice
from namm_runtime.model.dtype_choice import bfloat16_speedup, choose_dtype
from namm_runtime.model.loading import load_model
from tests.support.gguf_files import write_gguf


def config(dtype: object) -> SimpleNamespace:
    return SimpleNamespace(dtype=dtype, hidden_size=64, intermediate_size=96)


def speedup(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setattr(dtype_choice, "bfloat16_speedup", lambda *shape: ratio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16", None])
def test_half_precision_is_computed_in_what_is_faster(monkeypatch: pytest.MonkeyPatch, dtype: object) -> None:
    speedup(monkeypatch, 1.8)
    assert choose_dtype("auto", config(dtype), on_cpu=True) == "bfloat16"
    speedup(monkeypatch, 0.4)
    assert choose_dtype("auto", config(dtype), on_cpu=True) == "float32"
    speedup(monkeypatch, 1.02)
    assert choose_dtype("auto", config(dtype), on_cpu=True) == "float32", "not worth the precision"


@pytest.mark.parametrize("dtype", [torch.float32, "float32"])
def test_full_precision_stays_so(monkeypatch: pytest.MonkeyPatch, dtype: object) -> None:
    speedup(monkeypatch, 9.0)
    assert choose_dtype("auto", config(dtype), on_cpu=True) == "float32"


def test_a_choice_is_taken_and_an_accelerator_takes_the_checkpoints() -> None:
    assert choose_dtype("float16", config(torch.float32), on_cpu=True) == "float16"
    assert choose_dtype("auto", config(torch.bfloat16), on_cpu=False) == "auto"
    assert choose_dtype("auto", config(None), on_cpu=False, packed=True) == "bfloat16"
    with pytest.raises(Refusal, match="unknown dtype 'fp8'"):
        choose_dtype("fp8", config(None), on_cpu=True)


def test_the_measurement_is_made_once() -> None:
    bfloat16_speedup.cache_clear()
    assert bfloat16_speedup(64, 96, 1) == bfloat16_speedup(64, 96, 1) > 0
    assert bfloat16_speedup.cache_info().misses == 1


@pytest.mark.parametrize("name", ["bundled", "bundled-deep"])
def test_bundled_models_stay_in_fp32(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    speedup(monkeypatch, 9.0)
    assert load_model(name).dtype == "float32"


@pytest.mark.parametrize(("ratio", "dtype"), [(1.8, "bfloat16"), (0.5, "float32")])
def test_a_gguf_file_has_no_precision_to_lose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ratio: float, dtype: str
) -> None:
    speedup(monkeypatch, ratio)
    write_gguf(tmp_path / "tiny.gguf")
    assert load_model(tmp_path / "tiny.gguf").dtype == dtype
