"""Which version a job runs with: scopes, canaries, pins, and the way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from store import audit
from store.database import Database
from store.errors import NotFound
from store.scorers import activations, registry, rollout
from store.scorers.registry import VersionState
from store.scorers.serving import Alias, NotUsable, Plan, plan
from store.tables.jobs import Job
from tests.support.versions import make

Submit = Callable[..., Job]


@dataclass
class FakeJob:
    """A job as far as choosing goes."""

    id: str = "job_1"
    tenant_id: str = "ten_a"
    model: str = "small"
    scorer: str | None = None
    scorer_sha256: str | None = None
    scorer_requested: str | None = None
    tags: Any = None

    def __post_init__(self) -> None:
        self.tags = self.tags or {}


def planned(session: Session, asked: str | None = None, **job: Any) -> Plan:
    return plan(session, FakeJob(scorer_requested=asked, **job), "namm")  # type: ignore[arg-type]


def chosen(session: Session, asked: str | None = None, **job: Any) -> str | None:
    candidates = planned(session, asked, **job).candidates
    return candidates[0].version if candidates else None


def test_the_most_particular_scope_serves(db: Database) -> None:
    with db.session() as session:
        assert chosen(session) is None, "nothing active: the bundled one"
        scopes = ("global", "model:small", "tenant:ten_a", "schedule:s")
        for version, scope in zip("1234", scopes, strict=True):
            activations.activate(session, make(session, version), scope, "key_1")
        assert chosen(session, model="other", tenant_id="ten_b") == "1"
        assert chosen(session, tenant_id="ten_b") == "2"
        assert chosen(session) == "3"
        assert chosen(session, tags={"schedule_id": "s"}) == "4"
        assert {row.version: row.state for row in registry.versions(session)} == dict.fromkeys(
            "1234", "active"
        )


def test_a_new_activation_retires_the_old_version_and_rollback_brings_it_back(db: Database) -> None:
    with db.session() as session:
        one, two, three = (make(session, version) for version in "123")
        for row in (one, two, three):
            activations.activate(session, row, "global", "key_1")
        assert (one.state, two.state, three.state) == ("retired", "retired", "active")
        activations.rollback(session, "namm", "global", "key_2", reason="bad answers")
        assert chosen(session) == "2"
        activations.rollback(session, "namm", "global", "key_2", reason="worse")
        assert chosen(session) == "1", "not back to the one that was rolled back"
        with pytest.raises(activations.NoEarlierVersion):
            activations.rollback(session, "namm", "global", "key_2", reason="still")
        assert chosen(session) == "1"
        activations.activate(session, three, "global", "key_1")
        assert (one.state, three.state) == ("retired", "active")
        actions = [entry.action for entry in audit.entries(session, subject="namm@3")]
        assert actions[:1] == ["scorer.activated"]
        assert {"scorer.uploaded", "scorer.verified", "scorer.activated", "scorer.ended"} == set(actions)


def test_a_rollback_looks_at_the_latest_time_a_version_served_and_keeps_its_bounds(db: Database) -> None:
    with db.session() as session:
        one, two, three = (make(session, version) for version in "123")
        activations.activate(session, one, "global", "k", reason="rolled back is only a word here")
        activations.activate(session, two, "global", "k")
        activations.rollback(session, "namm", "global", "k", reason="bad day")
        activations.activate(session, two, "global", "k", bounds={"max_failure_rate": 0.1})
        activations.activate(session, three, "global", "k")
        back = activations.rollback(session, "namm", "global", "k", reason="three is worse")
        assert (back.version_id, back.bounds) == (two.id, {"max_failure_rate": 0.1})
        activations.rollback(session, "namm", "global", "k", reason="and two")
        assert chosen(session) == "1"


def test_a_canary_serves_its_share_and_the_same_jobs_each_time(db: Database) -> None:
    with db.session() as session:
        activations.activate(session, make(session, "1"), "global", "key_1")
        canary = make(session, "2")
        activations.activate(session, canary, "global", "key_1", alias=Alias.CANARY, percent=20)
        first = [chosen(session, id=f"job_{i}") for i in range(500)]
        assert 60 < first.count("2") < 140
        assert first == [chosen(session, id=f"job_{i}") for i in range(500)]
        assert canary.state == VersionState.ACTIVE
        # more of them: those that had it keep it
        activations.end(session, "namm", "global", Alias.CANARY, "key_1", reason="done")
        assert canary.state == VersionState.RETIRED
        assert {chosen(session, id=f"job_{i}") for i in range(50)} == {"1"}


def test_a_narrow_canary_keeps_the_wider_stable(db: Database) -> None:
    with db.session() as session:
        activations.activate(session, make(session, "1"), "global", "key_1")
        activations.activate(session, make(session, "2"), "tenant:ten_a", "k", alias=Alias.CANARY, percent=50)
        assert {chosen(session, id=f"job_{i}") for i in range(50)} == {"1", "2"}
        assert {chosen(session, id=f"job_{i}", tenant_id="ten_b") for i in range(50)} == {"1"}
        activations.activate(session, make(session, "3"), "global", "k", alias=Alias.CANARY, percent=100)
        assert chosen(session, tenant_id="ten_b") == "3"
        activations.activate(session, make(session, "4"), "tenant:ten_b", "k")
        assert chosen(session, tenant_id="ten_b") == "4", (
            "a wider canary is not for a scope with its own stable"
        )


def test_a_shadow_is_drawn_among_the_stables_jobs(db: Database) -> None:
    with db.session() as session:
        activations.activate(session, make(session, "1"), "global", "k")
        shadow = {"alias": Alias.CANARY, "percent": 0, "shadow_percent": 30}
        activations.activate(session, make(session, "2"), "global", "k", **shadow)  # type: ignore[arg-type]
        plans = [planned(session, id=f"job_{i}") for i in range(300)]
        assert {one.candidates[0].version for one in plans} == {"1"}
        assert 50 < sum(one.shadow is not None for one in plans) < 130


def test_a_pinned_job_keeps_its_version(db: Database) -> None:
    with db.session() as session:
        one = make(session, "1")
        activations.activate(session, one, "global", "k")
        activations.activate(session, make(session, "2"), "global", "k")
        begun = planned(session, scorer="namm@1", scorer_sha256="sha-1")
        assert begun == Plan((one,), None, "sha-1", exact=True)
        other = planned(session, scorer="namm@1", scorer_sha256="sha-of-another-file")
        assert other == Plan((), "namm@1", "sha-of-another-file", exact=True), "perhaps the runtime's own"
        make(session, "3", verify=False)
        assert planned(session, scorer="namm@3").candidates == ()
        assert chosen(session, "namm@1") == "1", "asked for by version"
        assert chosen(session, "namm-key") is None
        assert chosen(session, "namm@99") is None, "perhaps one of the runtime's own"


def test_only_verified_versions_serve(db: Database) -> None:
    with db.session() as session:
        raw = make(session, "1", verify=False)
        with pytest.raises(NotUsable):
            activations.activate(session, raw, "global", "k")
        with pytest.raises(NotUsable):
            chosen(session, "namm@1")
        registry.mark_rejected(session, raw, "scorer_not_finite", "it holds a NaN")
        with pytest.raises(NotUsable, match="rejected"):
            activations.activate(session, raw, "global", "k")
        with pytest.raises(Exception, match="only uploaded"):
            registry.mark_verified(session, raw, blob_key="b", sha256="s", manifest={})


def test_versions_never_change(db: Database) -> None:
    with db.session() as session:
        make(session, "1")
        same = {
            "name": "namm",
            "version": "1",
            "kind": "safetensors",
            "upload_key": "other",
            "actor": "key_9",
        }
        row, new = registry.upload(session, upload_sha256="1", **same)
        assert (row.upload_key, new) == ("k", False)
        with pytest.raises(registry.VersionExists):
            registry.upload(session, upload_sha256="2", **same)
        with pytest.raises(NotFound):
            registry.get(session, "namm", "2")


def test_two_open_activations_of_a_scope_cannot_be(db: Database) -> None:
    with db.session() as session:
        activations.activate(session, make(session, "1"), "global", "k")
    columns = "name, scope, alias, version_id, 100, 0, '{}'::jsonb, activated_by"
    copy = text(f"INSERT INTO scorer_activations SELECT 'x', {columns} FROM scorer_activations")
    with pytest.raises(DBAPIError), db.session() as session:
        session.execute(copy)


def test_the_audit_log_only_grows(db: Database) -> None:
    with db.session() as session:
        audit.note(session, "key_1", "scorer.uploaded", "namm@1", size=3)
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(DBAPIError, match="append-only"), db.session() as session:
            session.execute(text(statement))


def test_the_order_of_activations_is_the_databases(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are made by hosts' clocks: here each activation's id sorts before the one made before it."""
    ids = iter(f"act_{letter}" for letter in "zyxwvu")
    monkeypatch.setattr(activations, "new_id", lambda prefix: next(ids))
    with db.session() as session:
        rows = [make(session, version) for version in "123"]
        seen = [rollout.newest(session)]
        for row in rows:
            activations.activate(session, row, "global", "k")
            seen.append(rollout.newest(session))
        assert len(set(seen)) == 4, "a worker sees each one"
        shown = [registry.by_id(session, one.version_id).version for one in activations.history(session)]
        assert shown == ["3", "2", "1"]
        assert [row.version for row in planned(session).candidates] == ["3", "2", "1"]
        back = activations.rollback(session, "namm", "global", "k", reason="bad")
        assert back.version_id == rows[1].id
