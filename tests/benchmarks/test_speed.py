"""Fits, stopwatch, counts and tables of the speed benchmarks, on made-up figures."""

import pytest
import torch

from benchmarks import lengths, speed_tables, tables, time_breakdown
from benchmarks.reading_time_fit import Quadratic
from benchmarks.stopwatch import Stopwatch
from namm_runtime import policies
from namm_runtime.engine.memory import Memory
from namm_runtime.model.loading import load_model
from namm_runtime.scorer import checkpoint

MACHINE = {"processor": "a CPU", "threads": 2, "torch": "2.13", "date": "2026-01-01"}


def quadratic(tokens: int) -> float:
    return 1e-5 * tokens + 2e-9 * tokens**2


# -- fit ---------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_coefficients_and_says_how_well():
    sizes = [4096 * 2**i for i in range(6)]
    exact = Quadratic.through([(n, quadratic(n)) for n in sizes])
    assert (exact.linear, exact.quadratic) == (pytest.approx(1e-5), pytest.approx(2e-9))
    assert exact.worst < 1e-9
    noisy = Quadratic.through([(n, quadratic(n) * (1 + 0.05 * (-1) ** i)) for i, n in enumerate(sizes)])
    assert noisy.quadratic == pytest.approx(2e-9, rel=0.1)
    assert 0.02 < noisy.residual <= noisy.worst < 0.1
    assert Quadratic.of(noisy.to_dict()) == noisy


def test_no_coefficient_is_negative():
    fit = Quadratic.through(
        [(1000, 0.9e-3), (2000, 4e-3), (4000, 16e-3)]
    )  # would want a negative linear term
    assert fit.linear == 0
    assert fit.quadratic == pytest.approx(1e-9, rel=0.1)


def test_one_length_is_not_enough():
    with pytest.raises(ValueError, match="two lengths"):
        Quadratic.through([(1000, 1.0), (1000, 1.1)])


def test_the_crossover_is_where_both_take_as_long():
    fit = Quadratic(1e-5, 2e-9, 0.0, 0.0, 5)
    length = fit.crossover(10_000)
    assert fit.seconds(length) == pytest.approx(length / 10_000)
    assert fit.crossover(1e6) == 0  # faster from the first token on
    assert Quadratic(1e-5, 0.0, 0.0, 0.0, 5).crossover(10_000) == float("inf")


# -- lengths -----------------------------------------------------------------------------------------------


class Machine:
    """Stands in for the measuring processes: a full cache of a known cost, bounded ones of constant speed."""

    def __init__(self) -> None:
        self.settings: list[lengths.Row] = []

    def __call__(self, setting: lengths.Row) -> list[lengths.Row]:
        self.settings.append(setting)
        policy, sizes, chunk = setting["policy"], setting["lengths"], setting.get("chunk", 512)
        slower = 1 if chunk is None else 4
        seconds = [quadratic(n) * slower if policy == "full" else n / 5000 for n in sizes]
        limit = setting.get("seconds", float("inf"))
        if max(seconds) > limit:
            struck = next(n for n in range(512, max(sizes), 512) if quadratic(n) * slower > limit)
            sizes = [n for n in sizes if n < struck] + [struck]
            seconds = [quadratic(n) * slower for n in sizes]
        return [self.row(policy, chunk, *pair) for pair in zip(sizes, seconds, strict=True)]

    def row(self, policy: str, chunk: int | None, tokens: int, seconds: float) -> lengths.Row:
        row = {"policy": policy, "chunk": chunk, "budget": 512, "tokens": tokens, "seconds": seconds}
        row |= {"tokens_per_second": tokens / seconds, "kv_bytes": 2048 * tokens, "basis": "measured"}
        row |= {"process_before_bytes": 2**28, "process_peak_bytes": 2**29, "machine": MACHINE}
        return row | {"points": [(tokens, seconds)]} if policy == "full" else row


def test_the_full_cache_is_measured_up_to_the_limit_and_derived_beyond():
    rows = lengths.compare(Machine(), list(lengths.LENGTHS), 512, 60.0, 20.0)
    whole = {row["tokens"]: row for row in rows if row["policy"] == "full" and row["chunk"] is None}
    measured = [n for n, row in whole.items() if row["basis"] == "measured"]
    assert quadratic(max(measured)) <= 60 < quadratic(max(measured) + 3 * lengths.STEP)
    assert set(lengths.LENGTHS) <= set(whole)
    derived = whole[1 << 20]
    assert derived["basis"] == "derived (fit)"
    assert derived["seconds"] == pytest.approx(quadratic(1 << 20), rel=1e-3)
    assert derived["kv_bytes"] == 2048 << 20
    assert "process_peak_bytes" not in derived
    reached = {row["tokens"] for row in rows if row["policy"] == "namm"}
    assert {max(measured)} | set(lengths.LENGTHS) <= reached


def test_short_documents_need_no_fit():
    rows = lengths.compare(Machine(), [1 << 14], 512, 60.0, 20.0)
    assert {row["basis"] for row in rows} == {"measured"}
    assert "16,384 tokens" in speed_tables.lengths(rows)


def test_the_table_of_lengths_states_ratio_crossover_and_what_is_derived():
    rows = lengths.compare(Machine(), list(lengths.LENGTHS), 512, 60.0, 20.0)
    text = speed_tables.lengths(rows)
    longest = max(r["tokens"] for r in rows if r["basis"] == "measured" and r["policy"] == "full")
    ratio = 5000 * quadratic(longest) / longest
    assert f"At {longest:,} tokens" in text
    assert f"namm reads {ratio:.1f} times as fast as the full cache (whole document in one call)" in text
    crossover = (1 / 5000 - 1e-5) / 2e-9
    assert f"about {float(f'{crossover:.2g}'):,.0f} tokens, derived" in text
    assert f"*{(1 << 20) / quadratic(1 << 20):,.0f}, derived (fit)*" in text
    assert "namm's tokens/s at 1,048,576 tokens are 1.00 of those at 65,536" in text


@pytest.mark.parametrize("chunk", [None, 256])
def test_both_ways_of_the_full_cache_hold_the_same_bytes(tmp_path, chunk):
    lengths.write_ids(tmp_path / "ids.npy", 1024)
    row = lengths.read(str(tmp_path / "ids.npy"), "full", [1024], chunk=chunk)[-1]
    assert (row["tokens"], row["kv_bytes"]) == (1024, 1024 * load_model("bundled").dense_bytes_per_token)
    bounded = lengths.read(str(tmp_path / "ids.npy"), "namm", [512, 1024], budget=128)
    assert [one["tokens"] for one in bounded] == [512, 1024]
    assert bounded[0]["kv_bytes"] == bounded[1]["kv_bytes"] < row["kv_bytes"]


def test_a_time_limit_ends_the_full_cache(tmp_path):
    lengths.write_ids(tmp_path / "ids.npy", 2048)
    rows = lengths.read(str(tmp_path / "ids.npy"), "full", [2048], chunk=256, seconds=0.0)
    assert [row["tokens"] for row in rows] == [256]
    assert rows[0]["points"][-1][0] == 256


# -- shares ------------------------------------------------------------------------------------------------


def test_parts_do_not_count_what_is_inside_them():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    with watch.part("outer"):
        now[0] += 1
        with watch.part("inner"):
            now[0] += 2
            with watch.part("outer"):  # a part may come again deeper inside
                now[0] += 4
        now[0] += 8
    assert watch.seconds == {"outer": 13.0, "inner": 2.0}


def test_watching_times_calls_and_leaves_no_trace():
    class Owner:
        def work(self, answer: int) -> int:
            return answer

    watch, before = Stopwatch(iter(range(100)).__next__), Owner.work
    with watch.watching((Owner, "work", "part")):
        assert Owner().work(42) == 42
    assert Owner.work is before
    assert watch.seconds == {"part": 1.0}


def test_every_part_of_reading_is_seen():
    model = load_model("bundled")
    scorer = checkpoint.load(checkpoint.resolve("namm-key").path)
    memory = Memory(model, policies.make("namm-key", 128, scorer), 128, 128)
    plain = Memory(model, policies.make("namm-key", 128, scorer), 128, 128)
    ids = torch.arange(1024).unsqueeze(0) % model.vocab_size
    watch = time_breakdown.timed(memory, ids)
    assert set(watch.seconds) == set(time_breakdown.PARTS)
    assert all(seconds > 0 for seconds in watch.seconds.values())
    assert torch.equal(memory.feed(ids[:, :16]), (plain.feed(ids), plain.feed(ids[:, :16]))[1])


def test_flops_are_those_of_the_shapes():
    model = load_model("bundled")
    config = model.config
    scorer = checkpoint.load(checkpoint.resolve("namm").path).config
    work = time_breakdown.flops(model, scorer, 512, 512)
    pairs = sum(512 + query + 1 for query in range(512))  # a query sees the kept slots and up to itself
    heads, kv_heads, layers = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.num_hidden_layers,
    )
    assert work[time_breakdown.MEAN] == layers * heads * pairs
    products = layers * heads * pairs * 4 * model.head_width
    assert products < work[time_breakdown.ATTENTION] < 1.1 * products
    a_layer = config.hidden_size * model.head_width * 2 * (heads + kv_heads)
    a_layer += 3 * config.hidden_size * config.intermediate_size
    assert work[time_breakdown.LINEAR] == 2 * (
        layers * a_layer * 512 + config.vocab_size * config.hidden_size
    )
    assert work[time_breakdown.GATHER] == 0


def test_the_table_of_shares_sums_groups_and_the_scorer():
    seconds = dict(zip(time_breakdown.PARTS, (4.0, 2.0, 1.0, 1.0, 0.5, 1.0, 0.25, 0.15, 0.1), strict=True))
    work = dict(zip(time_breakdown.PARTS, (50.0, 20.0, 5.0, 10.0, 5.0, 9.0, 1.0, 0.0, 0.0), strict=True))
    parts = time_breakdown.breakdown(seconds, work)
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=1e-3)
    assert parts[time_breakdown.MEAN]["ratio"] == 2.0
    row = {"policy": "namm", "budget": 512, "tokens": 1000, "seconds": 10.0, "tokens_per_second": 100.0}
    text = speed_tables.time_breakdown([row | {"parts": parts, "machine": MACHINE}])
    assert "| **features** | 2.00 | 20.0% | 15.0% | 1.33 |" in text
    assert "| **scorer: features, BAM and compaction** | 3.90 | 39.0% | 30.0% | 1.30 |" in text
    assert "| compaction: gather | 0.15 | 1.5% | – | – |" in text
    assert "the parts sum to 100.0% of it" in text


# -- the other tables --------------------------------------------------------------------------------------


def test_the_eager_table_pairs_the_sides():
    rows = []
    for side, seconds, scratch in (("eager", 0.9, 700), ("ours", 0.3, 50)):
        row = {"side": side, "slots": 8192, "queries": 512, "heads": [4, 2, 32], "repeats": 9}
        row |= {"watching_seconds": seconds / 3, "scoring_seconds": 2 * seconds / 3, "seconds": seconds}
        row["masking_seconds"] = 0.3 if side == "eager" else 0.0
        rows.append(row | {"scratch_bytes": scratch * 2**20, "machine": MACHINE})
    assert "| 8,192 | 300 + 600 ms | 100 + 200 ms | 3.0 | 4.0 | 700 MiB | 50 MiB |" in speed_tables.eager(
        rows
    )


def test_shortcuts_are_labelled():
    row = {"policy": "namm", "budget": 512, "tokens": 9, "asked": 30, "found": 29, "tokens_per_second": 8000}
    row |= {"resident_bytes": 2**20, "peak_bytes": 2**21, "filler": "stdlib", "seed": 0, "machine": MACHINE}
    text = tables.shortcuts(
        [row | {"interval": 512, "watch_last": None}, row | {"interval": 2048, "watch_last": 256}]
    )
    assert "| 512 tokens | every query | 29 of 30 |" in text
    assert "| 2,048 tokens | the last 256 queries | 29 of 30 |" in text


def test_rows_of_two_machines_make_no_table():
    rows = lengths.compare(Machine(), [1 << 14], 512, 60.0, 20.0)
    rows[-1] = rows[-1] | {"machine": MACHINE | {"processor": "another CPU"}}
    with pytest.raises(ValueError, match="different machines"):
        speed_tables.lengths(rows)
