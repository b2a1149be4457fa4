"""Checkpoints that cannot be loaded, or would answer wrongly: one sentence with a code for each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from namm_runtime.errors import Refusal
from namm_runtime.model.loading import load_model
from tests.support.tiny import save_tiny_llama


def configure(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def reweigh(folder: Path, change: Callable[[dict], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def set_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('System message required') }}")


def split(folder: Path) -> None:
    """An index that names a shard which is not there."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shard = "model-0000{}-of-00002.safetensors"
    index = {name: shard.format(1 + position % 2) for position, name in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def quantize(folder: Path, method: str, **values: object) -> None:
    configure(folder, quantization_config={"quant_method": method, **values})


def pack(folder: Path) -> None:
    """Weights that need a scale, by a method that transformers skips."""
    reweigh(folder, lambda weights: weights.update({f"{Q_PROJ}_scale": weights[Q_PROJ][0].clone()}))
    quantize(folder, "magic")


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "one more layer": (lambda it: configure(it, num_hidden_layers=3), "model_not_found", "model.layers.2."),
    "no weights of a layer": (lambda it: reweigh(it, lambda w: w.pop(Q_PROJ)), "model_not_found", Q_PROJ),
    "NaN": (lambda it: reweigh(it, lambda w: w[Q_PROJ][0].fill_(float("nan"))), "model_unsupported", Q_PROJ),
    "infinity": (
        lambda it: reweigh(it, lambda w: w[Q_PROJ][0].fill_(float("-inf"))),
        "model_unsupported",
        Q_PROJ,
    ),
    "other shape": (lambda it: configure(it, vocab_size=512), "model_not_found", "[256, 32]"),
    "half a file": (lambda it: cut(it, 0.5), "model_not_found", "incomplete"),
    "half a header": (lambda it: cut(it, 0.001), "model_not_found", "incomplete"),
    "empty file": (lambda it: cut(it, 0), "model_not_found", "incomplete"),
    "LFS pointer": (lambda it: (it / "model.safetensors").write_bytes(LFS), "model_not_found", "Git LFS"),
    "missing shard": (split, "model_not_found", "model-00002-of-00002.safetensors"),
    "no weights": (lambda it: (it / "model.safetensors").unlink(), "model_not_found", "model.safetensors"),
    "no tokenizer": (lambda it: (it / "tokenizer.json").unlink(), "model_not_found", "cannot load"),
    "damaged tokenizer": (
        lambda it: (it / "tokenizer.json").write_text("{"),
        "model_not_found",
        "cannot load",
    ),
    "no configuration": (lambda it: (it / "config.json").unlink(), "model_not_found", "cannot load"),
    "damaged configuration": (
        lambda it: (it / "config.json").write_text("{"),
        "model_not_found",
        "cannot load",
    ),
    "LFS configuration": (lambda it: (it / "config.json").write_bytes(LFS), "model_not_found", "cannot load"),
    "text for a number": (lambda it: configure(it, hidden_size="big"), "model_not_found", "cannot load"),
    "no heads": (lambda it: configure(it, num_attention_heads=0), "model_not_found", "cannot load"),
    "bitsandbytes": (
        lambda it: quantize(it, "bitsandbytes", load_in_4bit=True),
        "model_unsupported",
        "quantized with bitsandbytes",
    ),
    "gptq": (lambda it: quantize(it, "gptq", bits=4), "model_unsupported", "quantized with gptq"),
    "awq": (lambda it: quantize(it, "awq", bits=4), "model_unsupported", "quantized with awq"),
    "compressed-tensors": (
        lambda it: quantize(it, "compressed-tensors"),
        "model_unsupported",
        "quantized with compressed-tensors",
    ),
    "unknown quantization": (pack, "model_unsupported", "quantized with magic"),
    "rope type": (
        lambda it: configure(it, rope_parameters=None, rope_scaling={"type": "su", "factor": 2.0}),
        "rope_unsupported",
        "'su'",
    ),
    "template that raises": (set_template, "model_unsupported", "System message required"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("intact") / "model")


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_refused_in_one_sentence(intact: Path, tmp_path: Path, name: str) -> None:
    damage, code, words = DAMAGES[name]
    folder = shutil.copytree(intact, tmp_path / "model")
    damage(folder)
    with pytest.raises(Refusal) as refusal:
        load_model(folder)
    assert refusal.value.code == code
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("asked", [{"dtype": "int3"}, {"device": "toaster"}, {"device": "cuda:99"}])
def test_an_unknown_dtype_or_device_is_refused(intact: Path, asked: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refusal:
        load_model(intact, **asked)
    assert refusal.value.code == "bad_request"


def test_half_precision_that_overflows_is_refused_with_its_dtype(intact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(intact, tmp_path / "model")
    reweigh(folder, lambda weights: weights[Q_PROJ][0].fill_(1e6))
    load_model(folder)
    with pytest.raises(Refusal, match="not all finite numbers in float16"):
        load_model(folder, dtype="float16")
