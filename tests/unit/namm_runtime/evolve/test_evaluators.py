"""A pool of processes evaluates as one process does."""

import torch

from namm_runtime.evolve.evaluators import ProcessPoolEvaluator
from namm_runtime.evolve.search import Search


def test_processes_find_what_one_process_finds(bundled, small, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes of the pool have
    try:
        alone = Search(bundled, small, tmp_path / "alone")
        with ProcessPoolEvaluator(small, 2) as pool:
            spread = Search(bundled, small, tmp_path / "spread", pool)
            for one, other in zip(alone.run(), spread.run(), strict=True):
                assert (one.best, one.mean) == (other.best, other.mean)
    finally:
        torch.set_num_threads(threads)
