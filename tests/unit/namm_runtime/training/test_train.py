"""The pieces that make the bundled models: tokenizer, start, forward pass, losses, and a run that resumes."""

import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.engine.memory import CHUNK
from namm_runtime.tasks import make_document, sample_facts
from namm_runtime.tasks.facts import FIELDS
from namm_runtime.tasks.families import FAMILIES
from namm_runtime.tasks.story import Role
from namm_runtime.tasks.suite import encoder
from namm_runtime.training import train
from namm_runtime.training.circuit_init import initialise
from namm_runtime.training.curriculum import LENGTHS, TOKENS_PER_BATCH, draw_length, make_batch
from namm_runtime.training.losses import (
    answer_loss,
    gaze_loss,
    key_loss,
    near_loss,
    relevance_loss,
    text_loss,
)
from namm_runtime.training.shapes import SHAPES, WINDOW, bundled_config
from namm_runtime.training.tokenizer import VOCAB_SIZE, train_tokenizer, word_twins
from namm_runtime.training.traced_forward import Mistakes, View, key_similarity, traced_forward

PLAIN = {"multi": 1.0}
EVEN = dict.fromkeys(FAMILIES, 1.0)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(seed=0, max_length=WINDOW)


def build(tokenizer: PreTrainedTokenizerFast, shape: str = "main") -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        bundled_config(SHAPES[shape], len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    ).eval()
    initialise(model, SHAPES[shape], 0, word_twins(tokenizer))
    return model


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build(tokenizer)


def test_tokenizer_spells_every_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= VOCAB_SIZE
    text = "".join(map(chr, range(1, 0x250))) + "日本\u2028\U0001f600\r\n\t  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_come_in_pairs_and_task_words_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = tokenizer.tokenize("48213 7", add_special_tokens=False)
    assert pieces == ["48", "21", "3", "Ġ7"]
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in ("latest", "total", "final", "room"))


def test_pieces_apart_have_the_tokens_of_the_pieces_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    encode = encoder(tokenizer)
    document = make_document(20_000, 20, seed=1, split="test", filler="mixed")
    for planted in document.facts:
        fact, end = planted.fact, planted.offset + len(planted.fact.sentence)
        parts = (document.text[: planted.offset], fact.prompt, fact.completion, document.text[end:])
        assert list(chain.from_iterable(encode(parts))) == encode([document.text])[0]


def test_ordinary_text_compresses(tokenizer: PreTrainedTokenizerFast) -> None:
    text = make_document(200_000, 0, seed=1, split="test", filler="stdlib").text
    assert len(text) / len(encoder(tokenizer)([text])[0]) >= 2.7


@pytest.mark.parametrize(("shape", "least"), [("main", 0.3), ("deep", 0.1)])
def test_the_start_already_copies_a_stated_value(
    tokenizer: PreTrainedTokenizerFast, shape: str, least: float
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 64, PLAIN, random.Random(0))
    with torch.no_grad():
        trace = traced_forward(build(tokenizer, shape), batch.ids, batch.question_starts)
        _, accuracy = answer_loss(build(tokenizer, shape), trace, batch)
    assert len(accuracy) == len(batch.ids)
    assert sum(accuracy) / len(accuracy) > least  # untrained; chance is 1 in 2,048


@pytest.mark.parametrize("shape", SHAPES)
def test_the_start_looks_where_a_predecessor_was_said_before(
    tokenizer: PreTrainedTokenizerFast, shape: str
) -> None:
    model, found = build(tokenizer, shape), 0
    for field in FIELDS:
        lines = (f"\nKeep the {field} of each.", " Nobody came, and", f"\nInvoice 4821 {field}: 93")
        ids = torch.tensor([[tokenizer.bos_token_id, *chain.from_iterable(encoder(tokenizer)(lines))]])
        (named,) = encoder(tokenizer)([f" {field}"])[0]
        with torch.no_grad():
            trace = traced_forward(model, ids, torch.tensor([ids.shape[1]]))
        # From the value's first token the field is two places back, and the second head compares that.
        scores = (trace.rotated_queries[1][0, 1, -1:] @ trace.rotated_keys[1][0, 0].T)[0]
        found += ids[0].tolist().index(named) in scores.topk(3).indices.tolist()
    assert found >= len(FIELDS) - 2  # names of 16 numbers are alike by chance now and then


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


def test_what_a_batch_keeps_while_it_reads_is_instructions_junk_and_mistakes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng, views, junk, apart = random.Random(3), 0, 0, 0
    while views < 8:
        batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, rng)
        if batch.view is None:
            assert not batch.junk.any()
        elif batch.view.by != "random":
            assert batch.view.kept[(batch.roles == Role.VALUE) | batch.junk].all()
            assert batch.view.before is not None
            if not torch.equal(batch.view.before, batch.view.kept):
                assert torch.equal(batch.view.before, (batch.roles == Role.HEADER) | batch.junk)
                apart += 1
            assert (batch.roles[batch.junk] == Role.FILLER).all()
            assert (batch.ids[:, 0] == tokenizer.bos_token_id).all()
            assert not batch.junk[:, 513:].any()
            views, junk = views + 1, junk + int(batch.junk.sum())
    assert junk > 0
    assert 0 < apart < views


def test_clutter_comes_once_layer_1_has_learned_what_it_is_for(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def look(done: float) -> tuple[bool, bool, bool]:
        rng = random.Random(3)
        batches = [make_batch(tokenizer, encoder(tokenizer), 512, PLAIN, rng, done) for _ in range(4)]
        with torch.no_grad():
            trace = traced_forward(model, batches[-1].ids, batches[-1].question_starts)
            near, keys = near_loss(trace, batches[-1]), key_loss(trace, batches[-1])
            trace.keys[1] = -trace.keys[2]
            shaped = key_loss(trace, batches[-1]) != keys
        return any(bool(batch.junk.any()) for batch in batches), bool(shaped), near.item() > 0

    assert look(0.3) == (False, False, False)
    assert look(0.4) == (True, True, True)


@pytest.mark.parametrize(("before", "cluttered"), [(None, False), ({"tokens": [1], "log": []}, True)])
def test_a_training_begins_without_clutter_and_goes_on_with_it(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any] | None,
    cluttered: bool,
) -> None:
    run = train.Run(build(tokenizer), tokenizer, 0, 10 * TOKENS_PER_BATCH, tmp_path, before)
    monkeypatch.setattr(train, "draw_length", lambda done, rng: 64)

    def look(batch: train.Batch) -> Any:
        assert batch.cluttered is cluttered
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_update", look)
    with pytest.raises(KeyboardInterrupt):
        run.train()


def test_text_is_not_learned_from_junk(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rng, batch = random.Random(3), None
    while batch is None or not batch.junk.any():
        batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, rng)
    with torch.no_grad():
        trace = traced_forward(model, batch.ids, batch.question_starts, batch.view)
        torch.manual_seed(0)
        without = text_loss(model, trace, batch)
        batch.ids[batch.junk] = 5
        torch.manual_seed(0)
        assert text_loss(model, trace, batch) == without


def test_no_token_drifts_from_the_constant_that_layer_0_goes_by(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = build(tokenizer, "main")
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 0] = -1.0  # as training leaves it that holds nothing
    run = train.Run(model, tokenizer, 0, 10_000, tmp_path)
    for _ in range(3):
        run._update(make_batch(tokenizer, run.encode, 128, PLAIN, run.rng))
    assert torch.equal(model.model.embed_tokens.weight[:, 0], torch.ones(len(tokenizer)))
    assert model.model.norm.weight[0] == 0


def test_key_similarity_is_the_cosine_with_the_mean_direction() -> None:
    keys = torch.tensor([[[[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]]])
    counted = torch.tensor([[True, True, False]])
    half = 0.5**0.5
    torch.testing.assert_close(key_similarity(keys, counted), torch.tensor([[[half, half, -half]]]))


def test_losses_are_finite_and_reach_the_weights(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 128, EVEN, random.Random(2))
    assert {int(role) for role in batch.roles.unique()} == {int(role) for role in Role}
    trace = traced_forward(model, batch.ids, batch.question_starts, batch.view, batch.positions)
    losses = [
        answer_loss(model, trace, batch)[0],
        text_loss(model, trace, batch),
        key_loss(trace, batch),
        gaze_loss(trace, batch),
        relevance_loss(trace, batch, torch.nn.Linear(model.config.hidden_size, 1))[0],
    ]
    for loss, number in zip(losses, (2, 2, 1, 2, 1), strict=True):
        layer = model.model.layers[number]
        (gradient,) = torch.autograd.grad(loss, [layer.self_attn.k_proj.weight], retain_graph=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0


def test_near_loss_is_what_the_layers_before_the_match_leak(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def loss() -> float:
        torch.manual_seed(0)
        return near_loss(trace, batch).item()

    batch = make_batch(tokenizer, encoder(tokenizer), 1024, PLAIN, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    queries = trace.rotated_queries
    started = loss()
    queries[1] = torch.zeros_like(queries[1])  # an even look at everything
    blurred = loss()
    assert blurred > started
    batch.roles[:] = Role.VALUE  # all of it may be looked for
    named = loss()
    assert 0 <= named < 0.1
    queries[0] = torch.zeros_like(queries[0])
    assert loss() > named + 1  # but in layer 0 nothing may


def test_keys_are_shaped_on_plain_families_only(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 512, {"distractors": 1.0}, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    assert key_loss(trace, batch).item() == 0


def test_relevance_is_what_tells_needed_values_from_others(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    probe = torch.nn.Linear(model.config.hidden_size, 1)
    plain = make_batch(tokenizer, encoder(tokenizer), 512, PLAIN, random.Random(1))
    loss, accuracy = relevance_loss(traced_forward(model, plain.ids, plain.question_starts), plain, probe)
    assert (loss.item(), accuracy) == (0, {})
    batch = make_batch(tokenizer, encoder(tokenizer), 512, {"instructed": 1.0}, random.Random(1))
    trace = traced_forward(model, batch.ids, batch.question_starts)
    needed = (batch.roles == Role.VALUE)[..., None]
    with torch.no_grad():
        probe.weight.zero_()
        probe.weight[0, 0], probe.bias[0] = 1.0, 0.0
        trace.streams[2] = torch.where(needed, 1.0, -1.0) * torch.eye(model.config.hidden_size)[0]
        told, right = relevance_loss(trace, batch, probe)
        trace.streams[2] = -trace.streams[2]
        mistaken, wrong = relevance_loss(trace, batch, probe)
    assert told < 1e-3
    assert mistaken > 10
    assert (set(right["instructed"]), set(wrong["instructed"])) == ({1.0}, {0.0})


def test_a_sequence_longer_than_a_batch_is_a_batch_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = make_batch(tokenizer, encoder(tokenizer), 2 * TOKENS_PER_BATCH, EVEN, random.Random(1))
    assert batch.ids.shape == (1, 2 * TOKENS_PER_BATCH)


def test_what_questions_see_holds_all_that_they_need(tokenizer: PreTrainedTokenizerFast) -> None:
    batches = [make_batch(tokenizer, encoder(tokenizer), 512, EVEN, random.Random(i)) for i in range(8)]
    shrunken = [batch for batch in batches if batch.view is not None]
    assert 0 < len(shrunken) < len(batches)
    for batch in shrunken:
        assert batch.view is not None
        assert batch.view.kept[(batch.roles == Role.VALUE) | (batch.roles == Role.HEADER)].all()
        assert batch.view.kept.float().mean() + batch.view.share < 0.6
    assert any(batch.positions[-1] > 512 for batch in batches)
    assert all((batch.positions.diff() > 0).all() and batch.positions[-1] < WINDOW for batch in batches)


def test_lengths_grow_with_the_training() -> None:
    rng = random.Random(0)
    assert {draw_length(0.0, rng) for _ in range(50)} == {64}
    assert {draw_length(0.02, rng) for _ in range(50)} == {64, 128}
    assert {draw_length(0.99, rng) for _ in range(500)} == {length for length, _ in LENGTHS}


def test_a_resumed_run_makes_the_same_weights(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_SAVE_EVERY", 2)
    monkeypatch.setattr(train, "_LOG_EVERY", 1)

    def run(folder: str) -> train.Run:
        (tmp_path / folder).mkdir(exist_ok=True)
        return train.Run(build(tokenizer), tokenizer, 3, 4 * TOKENS_PER_BATCH, tmp_path / folder)

    whole = run("whole")
    whole.train()
    stopped = run("stopped")
    update, updates = stopped._update, iter(range(3))

    def killed(batch: train.Batch) -> Any:
        if next(updates, None) is None:
            raise KeyboardInterrupt
        return update(batch)

    monkeypatch.setattr(stopped, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = run("stopped")
    resumed.restore()
    assert resumed.step == 2
    resumed.train()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [entry["step"] for entry in resumed.log] == [1, 2, 3, 4]
    assert len((tmp_path / "stopped" / "log.jsonl").read_text().splitlines()) == 4


def test_training_goes_on_from_a_trained_model(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_LOG_EVERY", 1)
    monkeypatch.setattr(train, "draw_length", lambda done, rng: 64)
    monkeypatch.setattr(train, "train_tokenizer", lambda seed, length: tokenizer)
    first, second = tmp_path / "first", tmp_path / "second"
    for more in (["--out", str(first)], ["--out", str(second), "--start", str(first)]):
        monkeypatch.setattr("sys.argv", ["train", "--tokens", str(2 * TOKENS_PER_BATCH), *more])
        train.main()
    before, after = (json.loads((folder / "training.json").read_text()) for folder in (first, second))
    assert after["tokens"] == [*before["tokens"], 2 * TOKENS_PER_BATCH]
    assert (before["devices"], after["devices"]) == (["cpu"], ["cpu", "cpu"])
    assert after["log"][: len(before["log"])] == before["log"]
    assert [entry["tokens"] // TOKENS_PER_BATCH for entry in after["log"]] == [1, 2, 3, 4]
    assert after["log"][-1]["seconds"] >= before["log"][-1]["seconds"]
    weights = [LlamaForCausalLM.from_pretrained(folder).state_dict() for folder in (first, second)]
    moved = max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0])
    assert 0 < moved < 0.05, "two steps away, not a fresh start"


def test_facts_are_short_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = sample_facts(300, random.Random(1), "test")
    lengths = [len(ids) for ids in encoder(tokenizer)([fact.sentence for fact in facts])]
    assert sum(lengths) / len(lengths) < 11
