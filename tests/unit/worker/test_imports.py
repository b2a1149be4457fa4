"""Who loads what: torch belongs in the process that runs the model, and nowhere else."""

import os
import subprocess
import sys

import pytest

PARENT = [
    "worker.app",
    "worker.tasks",
    "worker.registration",
    "worker.jobs.claim_loop",
    "worker.jobs.execution",
    "worker.engine.runtime",
]
LOOPS = [
    "worker.loops.relay",
    "worker.loops.reaper",
    "worker.webhooks.notifier",
    "worker.bulk.conductor",
    "worker.loops.scheduler",
]


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages in memory after importing these in a fresh interpreter."""
    script = f"import sys, {', '.join(modules)}; sys.stdout.write(' '.join(sys.modules))"
    urls = {"DATABASE_URL": "postgresql://nowhere/x", "REDIS_URL": "unix:///nowhere.sock"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **urls}, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_celery_parent_loads_no_torch() -> None:
    loaded = loaded_by(*PARENT)
    assert "celery" in loaded
    assert not loaded & {"torch", "transformers", "namm_runtime"}


@pytest.mark.parametrize("loop", LOOPS)
def test_loops_load_no_torch(loop: str) -> None:
    assert not loaded_by(loop) & {"torch", "transformers", "namm_runtime"}


def test_describing_the_bundled_model_loads_no_torch() -> None:
    script = (
        "import sys\n"
        "from store.settings import Settings\n"
        "from worker.engine.model_files import describe\n"
        "try:\n    describe(Settings())\nexcept OSError:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
