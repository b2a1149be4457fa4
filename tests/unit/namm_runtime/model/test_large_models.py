"""Models on several devices: heads divided among processes, and layers among devices.

Two processes on a CPU stand for two devices, and the meta device for one that holds other layers. No machine
with more than one GPU has run this.
"""

import os
import subprocess
import sys
from importlib import util

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from namm_runtime import policies
from namm_runtime.attention.rope import Rotation
from namm_runtime.bundled import MODEL_DIR
from namm_runtime.cache import BoundedLayer
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel, load_model
from namm_runtime.policies.namm import Namm
from namm_runtime.scorer.checkpoint import Scorer
from tests.support import REPOSITORY
from tests.support.sharded import POLICIES
from tests.support.tiny import byte_tokenizer

ROOT = REPOSITORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A random Llama of four heads that share two KV heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, max_position_embeddings=2048, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    where = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(where)
    byte_tokenizer().save_pretrained(where)
    return str(where)


# -- tensor parallel -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readings(folder, tmp_path_factory) -> tuple[dict, list[dict]]:
    """What one process read, and what each of two did."""
    out = tmp_path_factory.mktemp("out")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, options in (([], []), (torchrun, ["parallel"])):
        script = str(ROOT / "tests" / "support" / "sharded.py")
        command = [sys.executable, *launcher, script, folder, str(out), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    whole, *parts = (torch.load(out / name) for name in ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt"))
    return whole, parts


@pytest.mark.parametrize("name", POLICIES)
def test_two_processes_keep_and_answer_what_one_does(readings, name):
    whole, parts = readings
    for rank, part in enumerate(parts):
        assert part["shard"] == (rank, 2)
        assert torch.allclose(part[name]["logits"], whole[name]["logits"], atol=1e-5)
        assert part[name]["answer"] == whole[name]["answer"]
        for key, expected in whole[name]["cache"].items():
            mine = expected[:, 2 * rank : 2 * rank + 2] if "queries" in key else expected[:, rank : rank + 1]
            kept = part[name]["cache"][key]
            if key.endswith(("positions", "lengths")):
                assert torch.equal(kept, mine), f"process {rank} kept other tokens ({key})"
            else:
                assert torch.allclose(kept, mine, atol=1e-5), key


def test_a_process_counts_its_own_share_and_refuses_the_others_snapshot(readings):
    whole, parts = readings
    assert [part["dense"] for part in parts] == [whole["dense"] // 2] * 2
    assert [part["refused"] for part in parts] == ["snapshot_mismatch"] * 2


def test_tensor_parallelism_needs_torchrun_and_heads_that_divide(folder, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Refusal, match="torchrun"):
        load_model(folder, tensor_parallel=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(Refusal) as refusal:
        load_model(folder, tensor_parallel=True)
    assert refusal.value.code == "shards_do_not_fit"
    with pytest.raises(Refusal, match="cannot be combined"):
        load_model(folder, tensor_parallel=True, device_map="auto")


def test_parity_is_refused_where_heads_are_divided(model, make_scorer):
    half = LoadedModel("tiny", "r1", model.model, model.tokenizer, model.rotation, 4096, shard=(0, 2))
    with pytest.raises(Refusal) as refusal:
        Memory(half, Namm(make_scorer(threshold=0.0), mode="parity"), None, by_slot=False)
    assert refusal.value.code == "regime_mismatch"


# -- device maps ---------------------------------------------------------------------------------------------

IN_MEMORY = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
ON_DISK = IN_MEMORY | {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, ON_DISK], ids=["auto", "one", "disk"])
def test_a_spread_model_computes_what_a_whole_one_does(folder, ids, device_map, make_scorer):
    ids = ids % 256
    expected = Memory(load_model(folder), policies.make("namm", 96, make_scorer()), 96, 128)
    spread = Memory(load_model(folder, device_map=device_map), expected.policy, 96, 128)
    assert torch.equal(spread.feed(ids).cpu(), expected.feed(ids))
    assert torch.equal(spread.fork().feed(ids[:, :20]).cpu(), expected.fork().feed(ids[:, :20]))
    for one, other in zip(spread.cache.layers, expected.cache.layers, strict=True):
        assert torch.equal(one.positions.cpu(), other.positions)


def test_auto_is_a_device_too(folder, ids):
    assert load_model(folder, device="auto").device.type == (
        torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    )


def test_device_maps_need_accelerate(folder, monkeypatch):
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *_: None if name == "accelerate" else found(name))
    with pytest.raises(Refusal) as refusal:
        load_model(folder, device_map="auto")
    assert refusal.value.code == "extra_missing"
    assert "accelerate" in refusal.value.message


@pytest.mark.parametrize(
    ("placed", "devices"),
    [
        ({"": "cuda:1"}, ["cuda:1"] * 3),
        ({"model.layers.0": "cuda:0", "model.layers": "cuda:1"}, ["cuda:0", "cuda:1", "cuda:1"]),
        ({"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cuda:2"}, ["cuda:2"] * 3),
        (
            {"model.layers.0.self_attn": "cuda:3", "model.layers.0.mlp": "cpu", "model": "cpu"},
            ["cuda:3"] * 3,
        ),
        (ON_DISK, ["cpu"] * 3),
    ],
)
def test_caches_lie_where_their_layer_computes(folder, monkeypatch, placed, devices):
    loaded = load_model(folder)
    monkeypatch.setattr(loaded.model, "hf_device_map", placed, raising=False)
    assert [str(loaded.layer_device(index)) for index in range(3)] == devices


def test_rotation_and_scorer_go_to_each_layers_device(make_scorer):
    """First a layer on the CPU, then one elsewhere: nothing kept for the first may meet the second."""
    rotation = Rotation(1e4 ** -torch.linspace(0, 1, 8))
    scorer: Scorer = make_scorer(key_input=True)
    policy = Namm(scorer)
    for device in ("cpu", "meta", "cpu"):
        x = torch.ones(1, 2, 32, 16, device=device)
        places = torch.arange(32, device=device).expand(1, 2, 32)
        assert rotation.rotate_range(x, 0).device.type == device
        assert rotation.rotate(x, places).device.type == device
        layer = BoundedLayer(64, 128, policy.state)
        layer.update(x, x)
        policy.observe(layer, torch.ones(1, 2, 16, 32, device=device))
        assert layer.state["ema"].device.type == device
        assert policy.scores(layer).device.type == device
    assert torch.equal(rotation.rotate_range(x, 3), rotation.rotate(x, places + 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
def test_layers_on_a_gpu_and_offloaded_ones_keep_what_a_cpu_keeps(folder, ids):
    """On a GPU machine: weights of two layers in memory or on disk, computing on the GPU."""
    device_map = dict.fromkeys(IN_MEMORY, 0) | {
        "model.layers.0": 0,
        "model.layers.1": "cpu",
        "model.layers.2": "disk",
    }
    ids = ids % 256
    expected = Memory(load_model(folder), policies.make("keydiff", 96), 96, 128)
    spread = Memory(load_model(folder, device_map=device_map, dtype="float32"), expected.policy, 96, 128)
    assert torch.allclose(spread.feed(ids).cpu(), expected.feed(ids), atol=1e-3)
    assert {layer.keys.device.type for layer in spread.cache.layers} == {"cuda"}


def test_the_bundled_model_loads_with_a_device_map():
    assert load_model(MODEL_DIR, device_map="cpu").dense_bytes_per_token > 0
