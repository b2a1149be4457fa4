"""One process of a tensor-parallel reading: `torchrun … tests/support/sharded.py MODEL OUT`.

Without torchrun it reads alone. Writes what each policy kept and answered as OUT/RANK-of-WORLD.pt.
"""

import sys
from pathlib import Path

import torch

from namm_runtime import Memory, Refusal, ask, load_model, make_policy
from namm_runtime.scorer import checkpoint

POLICIES = ("namm", "namm-key", "h2o", "snapkv", "keydiff", "window")


def main(model: str, out: Path, parallel: bool) -> None:
    loaded = load_model(model, tensor_parallel=parallel)
    ids = torch.randint(0, 256, (1, 700), generator=torch.Generator().manual_seed(0))
    results: dict[str, object] = {"shard": loaded.shard, "dense": loaded.dense_bytes_per_token}
    rank, world = loaded.shard
    for name in POLICIES:
        scorer = checkpoint.load(checkpoint.resolve(name).path) if name.startswith("namm") else None
        memory = Memory(loaded, make_policy(name, 96, scorer), 96, 128)
        logits = memory.feed(ids[:, :600])
        snapshot = out / f"{name}-{rank}-of-{world}"
        memory.save(snapshot)
        again = Memory(loaded, make_policy(name, 96, scorer), 96, 128)
        again.restore(snapshot)
        assert torch.equal(again.feed(ids[:, 600:]), memory.feed(ids[:, 600:]))
        results[name] = {
            "logits": logits,
            "answer": ask(memory, "why?", 20, temperature=1.0).text,
            "cache": memory.tensors(),
        }
    if world > 1:
        torch.distributed.barrier()  # so that the other's file is there
        memory = Memory(loaded, make_policy("window", 96), 96, 128)
        try:
            memory.restore(out / f"window-{1 - rank}-of-{world}")
        except Refusal as refusal:
            results["refused"] = refusal.code
    torch.save(results, out / f"{rank}-of-{world}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["parallel"])
