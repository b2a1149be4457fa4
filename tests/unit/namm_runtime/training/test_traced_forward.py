"""The training forward pass equals the one of transformers, but for what a view hides."""

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.engine.memory import CHUNK
from namm_runtime.training.shapes import SHAPES, bundled_config
from namm_runtime.training.traced_forward import Mistakes, View, key_similarity, traced_forward
from tests.support.untrained import build


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_transformers(tokenizer: PreTrainedTokenizerFast, shape: str) -> None:
    model = build(tokenizer, shape)
    ids = torch.randint(2, 2000, (2, 200), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([120, 150])
    everything = torch.ones(2, 200, dtype=torch.bool)
    few = everything.clone()
    few[:, 10:] = False
    with torch.no_grad():
        expected = model.model(ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(traced_forward(model, ids, starts).hidden, expected)
        roomy = traced_forward(model, ids, starts, View(everything)).hidden
        torch.testing.assert_close(roomy, expected, atol=1e-4, rtol=1e-4)
        tight = traced_forward(model, ids, starts, View(few)).hidden
        positions = torch.arange(200) * 3
        spread = traced_forward(model, ids, starts, None, positions).hidden
        mask = torch.ones(2, 200, dtype=torch.int64)
        expected_spread = model.model(
            ids, attention_mask=mask, position_ids=positions[None], use_cache=False
        ).last_hidden_state
    torch.testing.assert_close(spread, expected_spread)
    # What questions see changes nothing before them, and a document ends where its own questions begin.
    torch.testing.assert_close(tight[:, :120], expected[:, :120], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tight[1, 120:150], expected[1, 120:150], atol=1e-4, rtol=1e-4)
    assert (tight[0, 120:] - expected[0, 120:]).abs().max() > 0.1


@pytest.mark.parametrize("by", ["keys", "attention"])
def test_a_view_keeps_what_a_policy_would_keep_by_mistake(model: LlamaForCausalLM, by: Mistakes) -> None:
    ids = torch.randint(2, 2000, (2, 200), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([120, 150])
    nothing = torch.zeros(2, 200, dtype=torch.bool)
    with torch.no_grad():
        bare = traced_forward(model, ids, starts, View(nothing)).hidden
        few = traced_forward(model, ids, starts, View(nothing, share=0.1, by=by)).hidden
        all_of_one = traced_forward(model, ids[:1], starts[:1], View(nothing[:1], share=1.0, by=by)).hidden
        expected = model.model(ids[:1], use_cache=False).last_hidden_state
    torch.testing.assert_close(few[:, :120], bare[:, :120], atol=1e-4, rtol=1e-4)
    assert (few[:, 150:] - bare[:, 150:]).abs().max() > 0.01
    torch.testing.assert_close(all_of_one, expected, atol=1e-4, rtol=1e-4)


def test_layers_before_the_match_read_past_evictions() -> None:
    torch.manual_seed(0)
    config = bundled_config(SHAPES["main"], 2048, 0, 1)
    config.initializer_range = 0.3
    model = LlamaForCausalLM(config)
    length, start = 3 * CHUNK, 2 * CHUNK + 100
    ids = torch.randint(2, 2000, (1, length), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([start])
    everything, nothing = torch.ones(1, length, dtype=torch.bool), torch.zeros(1, length, dtype=torch.bool)
    with torch.no_grad():
        whole = traced_forward(model, ids, starts, View(everything)).streams[1]
        roomy = traced_forward(model, ids, starts, View(everything, everything)).streams[1]
        changed = ids.clone()
        changed[0, 10] += 1  # of the first chunk
        seen = traced_forward(model, changed, starts, View(everything, everything)).streams[1]
        tight = traced_forward(model, ids, starts, View(everything, nothing)).streams[1]
        unseen = traced_forward(model, changed, starts, View(everything, nothing)).streams[1]
        few = nothing.clone()
        few[0, 10] = True
        kept = traced_forward(model, changed, starts, View(everything, few)).streams[1]
        kept_before = traced_forward(model, ids, starts, View(everything, few)).streams[1]
    torch.testing.assert_close(roomy, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tight[:, :CHUNK], whole[:, :CHUNK], atol=1e-4, rtol=1e-4)
    for one, other, where in ((roomy, seen, start), (kept_before, kept, CHUNK)):
        assert (one[:, where:] - other[:, where:]).abs().max() > 1e-5
    torch.testing.assert_close(tight[:, CHUNK:], unseen[:, CHUNK:], atol=0, rtol=0)


def test_key_similarity_is_the_cosine_with_the_mean_direction() -> None:
    keys = torch.tensor([[[[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]]])
    counted = torch.tensor([[True, True, False]])
    half = 0.5**0.5
    torch.testing.assert_close(key_similarity(keys, counted), torch.tensor([[[half, half, -half]]]))
