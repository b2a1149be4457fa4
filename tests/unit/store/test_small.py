"""Blobs, ids, settings, idempotency keys, workers and the outbox."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from store import blobs, idempotency, ids, outbox, workers
from store.blobs import Blobs
from store.database import Database
from store.errors import IdempotencyMismatch, NotFound, StoreError
from store.settings import SettingMissing, Settings
from store.workers import ModelCard
from tests.support.models import find_model


@pytest.fixture(params=["directory", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A local store and a remote one."""
    where = str(tmp_path / "blobs") if request.param == "directory" else f"memory://{tmp_path.name}"
    return Blobs(where, tmp_path / "scratch")


def test_blob_comes_whole_or_not_at_all(files: Blobs) -> None:
    with files.create("a/b/c") as file:
        file.write(b"first")

    def write_half() -> None:
        with files.create("a/b/c") as file:
            file.write(b"sec")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        write_half()
    with files.open("a/b/c") as file:
        assert file.read() == b"first"
    assert files.names("a") == ["b/c"]
    with files.local("a/b/c") as path:
        assert path.read_bytes() == b"first"


def test_missing_and_removed_blobs(files: Blobs) -> None:
    for use in (files.open, files.local):
        with pytest.raises(NotFound), use("no/such") as _:
            raise AssertionError
    files.delete("no/such")
    files.delete_folder("no")
    with files.create("x/1") as file:
        file.write(b"1")
    with files.create("x/2") as file:
        file.write(b"2")
    files.delete("x/1")
    assert not files.exists("x/1")
    files.delete_folder("x")
    assert files.names("x") == []
    files.check()


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a//b", "", "a/./b"])
def test_blob_keys_stay_inside(files: Blobs, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        files.exists(key)


def test_scratch_is_left_empty(files: Blobs, tmp_path: Path) -> None:
    with files.create("a") as file:
        file.write(b"1")
    with files.local("a"):
        pass
    assert list((tmp_path / "scratch").glob("*")) == []
    assert list(tmp_path.rglob("*.partial")) == []


def test_leftovers_of_killed_writers_go_after_their_time(files: Blobs, tmp_path: Path) -> None:
    with files.create("a/b") as file:
        file.write(b"1")
    local = (tmp_path / "blobs").is_dir()
    folders = [tmp_path / "scratch", *([tmp_path / "blobs" / "a"] if local else [])]
    names = [folder / name for folder in folders for name in (".old.partial", ".new.partial")]
    names += [tmp_path / "scratch" / "old.copy", tmp_path / "scratch" / "new.copy"]
    for path in names:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
        if "old" in path.name:
            os.utime(path, (time.time() - 90_000,) * 2)
    assert files.remove_leftovers(86_400) == len(names) / 2
    assert [path for path in names if path.exists()] == [path for path in names if "new" in path.name]
    assert files.exists("a/b")
    assert files.remove_leftovers(86_400) == 0


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [10**18 + step * 10**6 for step in range(50)]
    made = []
    for moment in moments:
        monkeypatch.setattr(ids.time, "time_ns", lambda moment=moment: moment)
        made.append(ids.new_id("job"))
    assert made == sorted(made)
    assert {len(name) for name in made} == {len("job_") + 26}


def test_settings_hide_secrets_and_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingMissing, match="DATABASE_URL"):
        _ = Settings().database
    with pytest.raises(SettingMissing, match="REDIS_URL"):
        _ = Settings().broker
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter2@host/db")
    monkeypatch.setenv("PALIMPSEST_API_KEY_PEPPER", "hunter2-pepper")
    config = Settings(data_dir=tmp_path)
    assert "hunter2" not in repr(config)
    assert config.database == "postgresql+psycopg://u:hunter2@host/db"
    assert config.pepper == b"hunter2-pepper"


@pytest.mark.parametrize(
    ("given_url", "broker", "client"),
    [
        ("unix:///a/r.sock", "redis+socket:///a/r.sock", "unix:///a/r.sock"),
        ("unix:///a/r.sock?db=2", "redis+socket:///a/r.sock?virtual_host=2", "unix:///a/r.sock?db=2"),
        ("redis+socket:///a/r.sock", "redis+socket:///a/r.sock", "unix:///a/r.sock"),
        ("redis://h:6379/1", "redis://h:6379/1", "redis://h:6379/1"),
    ],
)
def test_redis_url_in_both_spellings(given_url: str, broker: str, client: str) -> None:
    config = Settings(redis_url=given_url)
    assert (config.broker, config.redis) == (broker, client)


def test_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    first = Settings(data_dir=tmp_path).pepper
    assert Settings(data_dir=tmp_path).pepper == first
    assert (tmp_path / "api_key_pepper").stat().st_mode & 0o777 == 0o600
    (tmp_path / "api_key_pepper").write_text("")
    with pytest.raises(StoreError, match="holds no usable secret"):
        _ = Settings(data_dir=tmp_path).pepper


def test_idempotency_key_gives_the_first_answer(db: Database, tenant: str) -> None:
    ask = (tenant, "POST /v1/jobs", "key-1")
    with db.session() as session:
        assert idempotency.begin(session, *ask, "print", hours=24) is None
        idempotency.complete(session, *ask, 201, {"id": "job_1"})
    with db.session() as session:
        assert idempotency.begin(session, *ask, "print", hours=24) == (201, {"id": "job_1"})
        with pytest.raises(IdempotencyMismatch):
            idempotency.begin(session, *ask, "other print", hours=24)
        assert idempotency.begin(session, tenant, "POST /v1/documents", "key-1", "print", hours=24) is None


def test_idempotency_key_of_a_failed_request_is_free_again(db: Database, tenant: str) -> None:
    with db.session() as session:
        idempotency.begin(session, tenant, "r", "k", "f", hours=24)
        session.rollback()
    with db.session() as session:
        assert idempotency.begin(session, tenant, "r", "k", "another", hours=24) is None
        idempotency.complete(session, tenant, "r", "k", 201, {})


def test_two_requests_at_once_with_one_key_become_one(db: Database, tenant: str) -> None:
    answers: list[object] = []

    def second() -> None:
        with db.session() as session:
            answers.append(idempotency.begin(session, tenant, "r", "k", "f", hours=24))

    thread = threading.Thread(target=second)
    with db.session() as session:
        assert idempotency.begin(session, tenant, "r", "k", "f", hours=24) is None
        thread.start()
        thread.join(0.3)
        assert answers == []  # it waits for the first one's outcome
        idempotency.complete(session, tenant, "r", "k", 201, {"id": 1})
    thread.join()
    assert answers == [(201, {"id": 1})]


def test_models_of_workers(db: Database) -> None:
    light, full = ModelCard("m", window=8), ModelCard("m", revision="r1", window=9, policies=["window"])
    with db.session() as session:
        workers.register(session, "wrk_a", "host", "cpu")
        workers.register(session, "wrk_a", "host", "cpu")
        assert workers.heartbeat(session, "wrk_a")
        assert not workers.heartbeat(session, "wrk_unknown")
        assert find_model(session, "m", 60) is None
        workers.advertise(session, "wrk_a", light, loaded=False)
        first = find_model(session, "m", 60)
        assert first is not None
        assert (first.card, first.loaded) == (light, False)
        workers.record_error(session, "wrk_a", "m", "No memory.")
        workers.advertise(session, "wrk_a", full, loaded=True)
        workers.advertise(session, "wrk_a", light, loaded=False)  # comes late: what is loaded stands
        [served] = workers.models(session, 60)
        assert (served.card, served.loaded, served.workers_live, served.errors) == (full, True, 1, [])
        workers.mark_stopped(session, "wrk_a")
        assert workers.models(session, 60) == []


def test_killed_workers_model_stays_known_until_all_are_forgotten(db: Database) -> None:
    with db.session() as session:
        workers.register(session, "wrk_killed", "host", "cpu")
        workers.advertise(session, "wrk_killed", ModelCard("m"), loaded=True)
        session.execute(text("UPDATE workers SET heartbeat_at = now() - interval '61 s'"))
        [silent] = workers.models(session, 60)
        assert (silent.workers_live, silent.loaded) == (0, False)
        workers.delete_all(session)
        assert workers.models(session, 60) == []
        assert not workers.heartbeat(session, "wrk_killed")  # so a living one would register again


def test_stop_request_is_for_one_worker(db: Database) -> None:
    with db.session() as session:
        for name in ("wrk_a", "wrk_b"):
            workers.register(session, name, "host", "cpu")
        workers.request_stop(session, "wrk_a")
        assert workers.is_stopping(session, "wrk_a")
        assert not workers.is_stopping(session, "wrk_b")


@given(st.text(min_size=1))
def test_queue_names_are_safe(model: str) -> None:
    assert not set(outbox.queue_of(model)) & set(", \n\x06\x16*")


def test_outbox_wakes_a_listener_after_the_commit_only(db: Database) -> None:
    with outbox.listen(db.engine) as heard:
        with db.session() as session:
            outbox.add_hint(session, "small")
            session.flush()
            assert not outbox.wait(heard, 0.2)
        assert outbox.wait(heard, 10)
        assert not outbox.wait(heard, 0.05)


def test_two_relays_take_different_hints(db: Database) -> None:
    with db.session() as session:
        for _ in range(4):
            outbox.add_hint(session, "small")
    with db.session() as one, db.session() as two:
        first, second = outbox.lock_hints(one, 2), outbox.lock_hints(two)
        assert len({hint.id for hint in [*first, *second]}) == 4
        outbox.drop(one, first)
    with db.session() as session:
        assert len(outbox.lock_hints(session)) == 2


def test_card_is_plain_json() -> None:
    assert json.loads(json.dumps(vars(ModelCard("m", policies=["window"]))))["name"] == "m"


def test_blobs_of_the_settings_lie_in_the_data_directory(tmp_path: Path) -> None:
    with blobs.connect(Settings(data_dir=tmp_path)).create("a") as file:
        file.write(b"1")
    assert (tmp_path / "blobs" / "a").read_bytes() == b"1"
