"""Schedules for tests: made, their times brought about, and looked at."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select, text

from store import jobs, schedules, workers
from store.database import Database
from store.ids import new_id
from store.jobs.admission import Ask, Owner
from store.schedules import NewSchedule, Template
from store.schedules import runs as schedule_steps
from store.settings import Settings
from store.tables.collections import Collection
from store.tables.job_states import State
from store.tables.jobs import Job
from store.tables.schedules import Schedule, ScheduleRun
from store.workers import ModelCard
from worker.loops.scheduler import schedule_once

YEARLY = "0 0 1 1 *"  # its times come when a test says so, and never twice in a test
MODEL = ModelCard("small", "r1", 2048, 4096, 1024, "ab" * 32, ["namm-key", "window"], [])
ASK = Ask(questions=("Who?",), policy="window")


@dataclass
class Schedules:
    """A tenant's schedules and the scheduler's steps on them."""

    database: Database
    tenant: str
    document: str
    settings: Settings = field(default_factory=Settings)

    @property
    def owner(self) -> Owner:
        return Owner(self.tenant, None, "default")

    def register(self) -> None:
        """A live worker that serves the one model."""
        with self.database.session() as session:
            workers.register(session, "wrk_test", "here", "cpu")
            workers.advertise(session, "wrk_test", MODEL, loaded=True)

    def forget_workers(self) -> None:
        """As if none had ever been there."""
        with self.database.session() as session:
            session.execute(text("TRUNCATE workers CASCADE"))

    def collection(self, name: str = "papers") -> str:
        """An empty collection."""
        with self.database.session() as session:
            row = Collection(id=new_id("col"), tenant_id=self.tenant, name=name)
            session.add(row)
            return row.id

    def job(self, **changes: Any) -> Template:
        return Template("job", ASK, document_id=self.document, **changes)

    def new(self, **changes: Any) -> NewSchedule:
        """A yearly schedule of a job, unless changed."""
        asked = {"name": new_id("name"), "cron": YEARLY, "template": self.job(), **changes}
        return NewSchedule(**asked)

    def make(self, **changes: Any) -> str:
        """The id of a new schedule."""
        with self.database.session() as session:
            return schedules.create(session, self.settings, self.owner, self.new(**changes)).id

    def come(self, schedule_id: str, seconds_ago: float = 0) -> None:
        """The schedule's next time is so long ago."""
        statement = text("UPDATE schedules SET next_at = now() - make_interval(secs => :ago) WHERE id = :id")
        with self.database.session() as session:
            session.execute(statement, {"id": schedule_id, "ago": seconds_ago})

    def tick(self) -> int:
        """What a scheduler does every few seconds."""
        return schedule_once(self.database, self.settings)

    def fire(self, schedule_id: str) -> ScheduleRun:
        """Its time comes, and a scheduler looks; the run of that time."""
        self.come(schedule_id)
        self.tick()
        return self.runs(schedule_id)[-1]

    def plan(self, schedule_id: str, first: datetime, now: datetime) -> list[ScheduleRun]:
        """A scheduler that looks at `now`, when the next time was `first`; all runs then."""
        with self.database.session() as session:
            row = session.get_one(Schedule, schedule_id)
            row.next_at = first
            schedule_steps.plan(session, row, now)
        return self.runs(schedule_id)

    def runs(self, schedule_id: str) -> list[ScheduleRun]:
        """The earliest time first."""
        with self.database.session() as session:
            query = select(ScheduleRun).where(ScheduleRun.schedule_id == schedule_id)
            return list(session.scalars(query.order_by(ScheduleRun.scheduled_for)))

    def states(self, schedule_id: str) -> list[str]:
        return [run.state for run in self.runs(schedule_id)]

    def get(self, schedule_id: str) -> Schedule:
        with self.database.session() as session:
            return session.get_one(Schedule, schedule_id)

    def jobs(self) -> list[Job]:
        """Every job there is, oldest first."""
        with self.database.session() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def end(self, run: ScheduleRun, state: State = State.SUCCEEDED, code: str | None = None) -> None:
        """The run's job ends, and a scheduler looks."""
        with self.database.session() as session:
            job = session.get_one(Job, run.job_id)
            jobs.close(session, job, state, code, "It broke." if code else None)
        self.tick()

    def end_bulk(self, run: ScheduleRun, state: str = "succeeded") -> None:
        """The run's bulk job ends, and a scheduler looks."""
        with self.database.session() as session:
            statement = text("UPDATE bulks SET state = :state, ended_at = now() WHERE id = :id")
            session.execute(statement, {"state": state, "id": run.bulk_id})
        self.tick()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The payloads of events of a kind."""
        with self.database.session() as session:
            query = text(
                "SELECT payload FROM outbox WHERE kind = 'event' AND payload->>'type' = :kind ORDER BY id"
            )
            return list(session.scalars(query, {"kind": kind}))
