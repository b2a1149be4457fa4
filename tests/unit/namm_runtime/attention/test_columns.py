"""Columns rebuilt from queries, keys and log-sum-exp against softmax in double precision."""

import pytest
import torch

from benchmarks.gpu.checks import fold_error, make_case, relative
from namm_runtime.attention import columns
from namm_runtime.attention.columns import fold_tiles

LAYOUTS = [(0, 16, 16), (0, 208, 208), (300, 32, 16), (37, 99, 80)]


@pytest.mark.parametrize(("start", "pending", "queries"), LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_equal_the_softmax(start, pending, queries, dtype):
    case = make_case(dtype=dtype, start=start, pending=pending, queries=queries)
    seen = case.source.seen
    assert relative(case.source.columns(0, seen), case.columns) < 1e-5
    middle = case.source.columns(seen // 3, seen // 2)
    assert relative(middle, case.columns[..., seen // 3 : seen // 2]) < 1e-5


@pytest.mark.parametrize("tile", [16, 33, None])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_tiles_of_slots_make_the_spectrum(tile, group):
    assert fold_error(fold_tiles, make_case(group=group), tile=tile) < 1e-5


def test_blocks_of_queries_make_all_columns(monkeypatch):
    monkeypatch.setattr(columns, "SCRATCH_BYTES", 1)
    case = make_case(queries=64)
    blocks = list(case.source.blocks())
    assert [block.shape[2] for block in blocks] == [16] * 4
    for index, block in enumerate(blocks):
        exact = case.columns[:, :, index * 16 : index * 16 + 16]
        assert not exact[..., block.shape[-1] :].any(), "no query of the block sees further"
        assert relative(block, exact[..., : block.shape[-1]]) < 1e-5
