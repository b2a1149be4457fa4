"""The worker with the real runtime: a small random Llama in a directory, a document beyond its chunk."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import text

from namm_runtime.scorer import checkpoint
from store import blobs, documents, jobs, tenants, workers
from store.billing import ledger
from store.database import Database
from store.settings import Settings
from store.tables.jobs import Job
from tests.support.registry import activate, add_real
from tests.support.tiny import WINDOW, save_tiny_llama
from worker.engine.model_files import describe
from worker.engine.process import WorkerProcess
from worker.jobs.claim_loop import run_jobs

TEXT = ("In the beginning the project was young. " * 60).encode()  # 2400 tokens: five chunks

Submit = Callable[..., Job]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def process(database_url: str, tmp_path: Path, model_directory: Path) -> Iterator[WorkerProcess]:
    config = Settings(
        database_url=database_url,
        data_dir=tmp_path,
        model=str(model_directory),
        progress_seconds=0.001,
        snapshot_chunks=1,
        max_document_tokens=2 * len(TEXT),
    )
    database = Database(config.database)
    with database.session() as session:
        workers.register(session, "wrk_real", "here", "cpu")
        tenants.ensure(session)
    yield WorkerProcess(config, database, "wrk_real")
    database.close()


@pytest.fixture
def submit(process: WorkerProcess) -> Submit:
    def create(content: bytes = TEXT, **changes: object) -> Job:
        tenant, key = tenants.DEFAULT_TENANT, documents.new_document_id()
        with process.blobs.create(documents.blob_key_of(tenant, key)) as file:
            file.write(content)
        asked: dict[str, object] = {"task": "ask", "prompts": ["Who?", "Why?"], "model": "tiny"}
        asked |= {"policy": "keydiff", "cache_budget": 64, "max_output_tokens": 8}
        with process.database.session() as session:
            documents.create(
                session, tenant, key, sha256="", size=len(content), media_type="text/plain", filename=None
            )
            new = jobs.NewJob(document_id=key, **{**asked, **changes})  # type: ignore[arg-type]
            return jobs.create(session, tenant, new)

    return create


def ended(process: WorkerProcess, job: Job) -> tuple[Job, list[str]]:
    with process.database.session() as session:
        result = jobs.result(session, job.tenant_id, job.id)
        return jobs.get(session, job.tenant_id, job.id), [a["text"] for a in result.answers] if result else []


def test_a_document_is_read_answered_and_billed(process: WorkerProcess, submit: Submit) -> None:
    job = submit()
    assert run_jobs(process) == 1
    done, answers = ended(process, job)
    assert (done.state, done.error_message) == ("succeeded", None)
    assert (done.positions, done.progress_tokens_done) == ("cache-relative", len(TEXT))
    assert len(answers) == 2
    with process.database.session() as session:
        bill = ledger.cost(session, job.tenant_id, job.id)
    figures = {figure.name: figure.quantity for figure in bill.summary}
    assert figures["device_seconds"] > 0
    assert figures["memory_saved.peak"] == figures["kv_bytes.dense"] - figures["kv_bytes.peak"]
    assert {"tokens.kept", "kv_bytes.kept", "kv_bytes.resident"} <= {line.meter for line in bill.lines}


def test_result_and_bill_say_what_a_document_was_read_with(process: WorkerProcess, submit: Submit) -> None:
    job = submit(policy="namm", cache_budget=None, reading="open")
    run_jobs(process)
    with process.database.session() as session:
        row = jobs.result(session, job.tenant_id, job.id)
        setting = ledger.cost(session, job.tenant_id, job.id).setting
    slots = checkpoint.load(checkpoint.resolve("namm").path).regime.budget
    said = (
        f"The scorer was evolved with {slots} slots per head; "
        "served with 512 slots per head (by its manifest)."
    )
    assert setting == ledger.Setting("budget", 512, 512, "cache-relative", False, said, "open", 0)
    assert row is not None
    assert row.usage["regime"] == said
    assert (row.usage["budget"], row.usage["positions"]) == (512, "cache-relative")


@pytest.mark.parametrize("reading", ["guided", "open"])
def test_answers_of_a_guided_reading_say_what_was_evicted(
    process: WorkerProcess, submit: Submit, reading: str
) -> None:
    job = submit(reading=reading)
    run_jobs(process)
    with process.database.session() as session:
        row = jobs.result(session, job.tenant_id, job.id)
    assert row is not None
    assert row.usage["reading"] == reading
    for answer in row.answers:
        share = answer["evicted_attention"]
        assert answer["guided"] == (reading == "guided") == (share is not None)
        assert share is None or 0 < share < 1


def test_a_model_without_a_measured_scorer_gets_its_own_default_when_it_is_claimed(
    process: WorkerProcess, submit: Submit
) -> None:
    job = submit(policy="namm-key", policy_reason="Not known yet.", policy_pending=True)
    run_jobs(process)
    done, _ = ended(process, job)
    with process.database.session() as session:
        [model] = workers.models(session, 60)
    assert (done.policy, done.policy_reason) == (model.card.default_policy, model.card.default_policy_reason)
    assert (done.policy, done.scorer) == ("keydiff", None)


def test_what_a_lost_worker_had_read_is_not_read_again_and_the_answers_are_the_same(
    process: WorkerProcess, submit: Submit
) -> None:
    whole, broken = submit(), submit()
    run_jobs(process)
    _, expected = ended(process, whole)

    # The second job again, from a snapshot in the middle, in another process's stead.
    again = submit()
    served = process.serve()
    step, count = served.engine.step, [0]

    def few_steps() -> list[object]:
        count[0] += 1
        if count[0] == 4:
            with process.database.session() as session:
                workers.request_stop(session, "wrk_real")
        return step()

    served.engine.step = few_steps  # type: ignore[method-assign]
    run_jobs(process)
    given, _ = ended(process, again)
    assert given.state == "queued"
    assert given.snapshot_tokens
    assert given.snapshot_tokens < len(TEXT)
    with process.database.session() as session:
        session.execute(text("UPDATE workers SET stopping_at = NULL"))
    process.forget_engine()
    run_jobs(process)
    done, answers = ended(process, again)
    assert (done.state, done.attempt, answers) == ("succeeded", 2, expected)
    assert ended(process, broken)[1] == expected


@pytest.mark.parametrize(
    ("content", "changes", "code"),
    [
        (b"", {}, "document_empty"),
        (b"\xff\xfe\x00binary" * 100, {}, "document_not_text"),
        (TEXT, {"prompts": ["why " * 2000]}, "prompt_too_long"),
        (TEXT, {"policy": "full"}, "document_too_long"),
        (TEXT * 3, {}, "document_too_long"),
        (TEXT, {"policy": "nonsense"}, "unknown_policy"),
        (TEXT, {"policy": "namm", "scorer_requested": "nobody@9"}, "unknown_scorer"),
        (TEXT, {"scorer_requested": "namm"}, "scorer_not_used"),
        (TEXT, {"cache_budget": 1}, "budget_out_of_range"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_own_code(
    process: WorkerProcess, submit: Submit, content: bytes, changes: dict[str, object], code: str
) -> None:
    bad, good = submit(content, **changes), submit()
    run_jobs(process)
    failed, _ = ended(process, bad)
    assert (failed.state, failed.error_code) == ("failed", code)
    assert failed.error_message
    assert ended(process, good)[0].state == "succeeded"


def scale(model: Path, factor: float) -> None:
    """Other weights in a model's directory."""
    file = model / "model.safetensors"
    weights = {name: factor * tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def test_results_carry_the_version_they_ran_on_and_can_be_had_again(
    process: WorkerProcess, submit: Submit, tmp_path: Path, model_directory: Path
) -> None:
    model = tmp_path / "model" / "tiny"
    shutil.copytree(model_directory, model)
    scale(model, 12)  # untrained, it looks everywhere alike, and what it is left with hardly matters
    process.config = process.config.model_copy(update={"model": str(model)})
    bundled = checkpoint.load(checkpoint.resolve("namm").path)
    asked = {"policy": "namm", "cache_budget": 64, "temperature": 1.0, "seed": 3, "max_output_tokens": 16}
    asked["reading"] = "open"  # where the scorer alone decides
    first, rows = {}, {}
    for version in ("8", "9"):
        noise = torch.randn(len(bundled.parameters), generator=torch.Generator().manual_seed(int(version)))
        scorer = replace(bundled, version=version, parameters=bundled.parameters + 3 * noise)
        folder = tmp_path / "made" / version
        rows[version] = add_real(process.database, process.blobs, scorer, version, folder)
        activate(process.database, rows[version])
        job = submit(**asked)
        run_jobs(process)
        done, first[version] = ended(process, job)
        assert (done.state, done.scorer, done.error_message) == ("succeeded", f"namm@{version}", None)
        assert done.scorer_sha256 == rows[version].sha256
    assert first["8"] != first["9"], "the numbers decide the answers"
    for version in ("8", "9"):
        again = submit(**asked, scorer_requested=f"namm@{version}")
        run_jobs(process)
        assert ended(process, again)[1] == first[version]
        # The same from the files alone, without the service.
        document = tmp_path / "document.txt"
        document.write_bytes(TEXT)
        request = process.serve().make_request(again, document, None)
        alone = process.serve().engine.complete(replace(request, scorer=tmp_path / "made" / version))
        assert [answer.text.replace("\0", "\ufffd") for answer in alone.answers] == first[version]
    own = f"namm@{bundled.version}"
    later = submit(**asked, scorer_requested=own)
    run_jobs(process)
    assert ended(process, later)[0].scorer == own, "the bundled one, by name"


def test_a_replaced_model_is_loaded_between_jobs_and_its_jobs_pin_it(
    process: WorkerProcess, submit: Submit, tmp_path: Path, model_directory: Path
) -> None:
    folder = tmp_path / "model" / "tiny"
    shutil.copytree(model_directory, folder)
    process.config = process.config.model_copy(update={"model": str(folder)})
    early = submit()
    run_jobs(process)
    engine, old = process.serve().engine, process.serve().card.revision
    assert process.serve().engine is engine

    scale(folder, 12)
    assert process.serve().engine is engine, "somebody may still be writing"
    for file in folder.iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))
    # A snapshot of the old revision is of no use to the new one.
    late = submit()
    with process.database.session() as session:
        stale = "UPDATE jobs SET snapshot_key = 'k', snapshot_model_revision = :old, snapshot_tokens = 512"
        session.execute(text(stale + " WHERE id = :id"), {"old": old, "id": late.id})
    with process.blobs.create("k") as file:
        file.write(b"of the old one")
    run_jobs(process)
    new = process.serve().card.revision
    (before, one), (after, other) = ended(process, early), ended(process, late)
    assert new != old
    assert (before.model_revision, after.model_revision) == (old, new)
    assert (after.state, after.attempts_lost) == ("succeeded", 0)
    assert one != other
    with process.database.session() as session:
        [served] = workers.models(session, 60)
    assert [(worker.id, worker.revision) for worker in served.workers] == [("wrk_real", new)]
    assert process.serve().engine is process.serve().engine


def test_files_and_loaded_model_tell_the_same(process: WorkerProcess, model_directory: Path) -> None:
    light, full = describe(process.config), process.serve().card
    assert (
        (light.name, light.window, light.vocab_size)
        == (full.name, full.window, full.vocab_size)
        == ("tiny", WINDOW, 256)
    )
    assert {"streaming", "window"} <= set(full.policies or ())  # the second is what it was called
    assert blobs.connect(process.config).names("snapshots") == []
