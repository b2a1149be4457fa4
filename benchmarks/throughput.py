"""Documents per minute through one worker: one slot compared with several in parallel, with equal answers.

`python -m benchmarks.throughput '{"slots": 2, "count": 200}'` prints one line of JSON. Worker, engine and
Postgres are those of the service; only Celery's wake-up is left out. Documents have 2,000 to 20,000 tokens,
from a fixed seed; `{"slots": 2, "count": 1, "tokens": 1000000}` reads a single long one.
"""

import hashlib
import json
import random
import sys
import time
from typing import Any

import torch

from benchmarks.embedded_service import worker_process
from namm_runtime.engine.engine import LONG
from namm_runtime.machine import machine
from namm_runtime.tasks import make_document
from store import documents, jobs, tenants
from store.database import Database
from worker.engine import runtime
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

SMALLEST, LARGEST = 2_000, 20_000  # tokens
CHARACTERS_PER_TOKEN = 3.0
POLICY = "namm-key"


def measure(
    slots: int | None, count: int = 200, tokens: int | None = None, seed: int = 0, all_cores: bool = False
) -> dict[str, Any]:
    """One row.

    Args:
        slots: None for the service's default.
        tokens: length of every document; None for random lengths.
        all_cores: compute as for larger models: one document at a time, each on all cores.
    """
    if all_cores:
        runtime.SMALL = 0
    with worker_process(slots=slots) as process:
        served = process.serve()
        made, longest = _submit(process, count, tokens, seed)
        begun = time.perf_counter()
        run_jobs(process)
        seconds = time.perf_counter() - begun
        row = _row(process.database, made) | {"longest": longest}
    return {
        "slots": served.engine.slots,  # type: ignore[attr-defined]
        "cores_each": "all" if all_cores or row["longest"] > LONG else 1,
        "documents": count,
        **row,
        "seconds": round(seconds, 1),
        "documents_per_minute": round(60 * count / seconds, 1),
        "tokens_per_second": round(row["tokens"] / seconds),
        "cores": torch.get_num_threads(),
        "machine": machine(),
    }


def _submit(process: WorkerProcess, count: int, tokens: int | None, seed: int) -> tuple[list[str], int]:
    """Ids of the jobs, and the size of the longest document in bytes."""
    rng, tenant, made, longest = random.Random(seed), tenants.DEFAULT_TENANT, list[str](), 0
    for number in range(count):
        length = tokens or rng.randint(SMALLEST, LARGEST)
        document = make_document(
            int(length * CHARACTERS_PER_TOKEN), 4, seed=seed + number, split="test", filler="business"
        )
        longest = max(longest, len(document.text.encode()))
        key = documents.new_document_id()
        with process.blobs.create(documents.blob_key_of(tenant, key)) as file:
            file.write(document.text.encode())
        prompts = [planted.fact.question for planted in document.facts]
        new = jobs.NewJob(key, "ask", prompts, "bundled", POLICY, max_output_tokens=12)
        with process.database.session() as session:
            about = {"sha256": "", "size": len(document.text), "media_type": "text/plain", "filename": None}
            documents.create(session, tenant, key, **about)  # type: ignore[arg-type]
            made.append(jobs.create(session, tenant, new).id)
    return made, longest


def _row(database: Database, made: list[str]) -> dict[str, Any]:
    digest, tokens, done = hashlib.sha256(), 0, 0
    with database.session() as session:
        for job_id in made:
            job = jobs.get(session, tenants.DEFAULT_TENANT, job_id)
            result = jobs.result(session, tenants.DEFAULT_TENANT, job_id)
            done += job.state == "succeeded"
            tokens += job.progress_tokens_total or 0
            digest.update(
                json.dumps([answer["text"] for answer in result.answers] if result else None).encode()
            )
    return {"succeeded": done, "tokens": tokens, "answers": digest.hexdigest()[:16]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
