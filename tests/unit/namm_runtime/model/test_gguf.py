"""GGUF files as models."""

from pathlib import Path

import pytest
import torch

from namm_runtime import policies
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import load_model
from tests.support.gguf_files import write_gguf


def test_a_gguf_file_computes_what_its_weights_compute_elsewhere(tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "tiny.gguf")
    ids = torch.randint(0, 256, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain(ids).logits[:, -1]
    loaded = load_model(tmp_path / "tiny.gguf", dtype="float32")
    memory = Memory(loaded, policies.make("streaming", 512), 512, 512, by_slot=False)
    assert torch.allclose(memory.feed(ids), expected, atol=5e-5)
    assert loaded.name == "tiny"
    assert loaded.window == 2048
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.frame.templated
    assert loaded.encode("abc").tolist()[0][-3:] == loaded.tokenizer("abc")["input_ids"]


def test_another_file_is_another_revision(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", title="Tiny 2")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.gguf").write_bytes((tmp_path / "a.gguf").read_bytes())
    first, other, same = (load_model(tmp_path / file).revision for file in ("a.gguf", "b.gguf", "c/a.gguf"))
    assert first == same != other


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    whole = file.read_bytes()
    for size in (4, 100, 2000, len(whole) // 2, len(whole) - 1000):
        file.write_bytes(whole[:size])
        _refused(file, "model_not_found", "incomplete or damaged")


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    _refused(file, "model_not_found", "there is no file")
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    _refused(file, "model_not_found", "Git LFS pointer")
    file.write_bytes(b"PK\x03\x04" * 100)
    _refused(file, "model_not_found", "not a GGUF file")


def test_scaled_frequencies_are_refused_as_they_are_not_read(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", rope_scaling="yarn")
    _refused(tmp_path / "tiny.gguf", "rope_unsupported", "'yarn'")


def _refused(file: Path, code: str, words: str) -> None:
    with pytest.raises(Refusal) as refusal:
        load_model(file)
    assert refusal.value.code == code
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message
