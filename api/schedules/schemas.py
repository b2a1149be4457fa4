"""What requests about schedules look like, and their answers."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.bulk.schemas import BulkWork
from api.jobs.schemas import TaskKind, Work
from api.schemas import MAX_DEADLINE, Answered, Asked, DocumentId, ErrorOut, Number, Page, Text
from store.schedules import NewSchedule, Overlap, RunState, Template

Deadline = Annotated[float, Field(gt=0, le=MAX_DEADLINE.total_seconds())]
_FROM_START = "Seconds from the start of a run; no deadline if left out."


class ScheduledJob(Work):
    """A job that each run submits."""

    document_id: DocumentId
    deadline_seconds: Deadline | None = Field(None, description=_FROM_START)


class ScheduledBulk(BulkWork):
    """A bulk job that each run begins, over what the collection holds by then."""

    deadline_seconds: Deadline | None = Field(None, description=_FROM_START)


class ScheduleCreate(Asked):
    """When something is to be done, and what: a job for one document, or a bulk job over a collection."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "weekly-digest",
                    "cron": "0 6 * * MON",
                    "timezone": "Europe/Berlin",
                    "bulk": {
                        "collection": "contracts",
                        "job": {"task": "summarize"},
                        "only_changed": True,
                    },
                },
                {
                    "name": "nightly-check",
                    "cron": "30 2 * * *",
                    "jitter_seconds": 600,
                    "overlap": "queue",
                    "job": {
                        "document_id": "doc_06f3k2v5r8c4x1m7d9a0b2e6g8",
                        "questions": ["What is overdue?"],
                    },
                },
            ]
        }
    )

    name: Annotated[Text, StringConstraints(pattern=r"^\S(.{0,98}\S)?$")] = Field(
        description="Of your choice, unique among your schedules."
    )
    cron: Annotated[Text, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Minute, hour, day of month, month, day of week; with `L` and `#` as in Debian's cron."
    )
    timezone: Annotated[Text, StringConstraints(min_length=1, max_length=100)] = Field(
        "UTC", description="An IANA name; the expression goes by its clock."
    )
    overlap: Overlap = Field(
        Overlap.SKIP,
        description="While the run before still runs: `skip` this one, `queue` it (the newest only), or "
        "`cancel_previous`.",
    )
    catch_up_seconds: int = Field(
        3600,
        ge=0,
        le=7 * 86_400,
        description="How late a run may begin after a standstill; the newest that was due is made up for. "
        "Less than a minute counts as a minute.",
    )
    jitter_seconds: int = Field(
        0, ge=0, le=86_400, description="Each run begins up to so much later, to spread the load."
    )
    max_failures: int = Field(5, ge=1, le=1000, description="So many in a row pause the schedule.")
    job: ScheduledJob | None = None
    bulk: ScheduledBulk | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.job is None) == (self.bulk is None):
            raise PydanticCustomError("work_choice", "Give either job or bulk")
        return self

    def new(self, collection_id: str | None = None) -> NewSchedule:
        """The same for the store; `collection_id` is that of a bulk job's collection or source."""
        return NewSchedule(
            template=_template(self.job, self.bulk, collection_id),
            **self.model_dump(exclude={"job", "bulk", "overlap"}),
            overlap=self.overlap,
        )


def _template(job: ScheduledJob | None, bulk: ScheduledBulk | None, collection_id: str | None) -> Template:
    if job is not None:
        return Template("job", job.ask(), deadline_seconds=job.deadline_seconds, document_id=job.document_id)
    assert bulk is not None  # one of them is there, or the request was refused
    return Template(
        "bulk",
        bulk.job.ask(),
        deadline_seconds=bulk.deadline_seconds,
        collection_id=collection_id,
        strategy=bulk.strategy,
        digest=bulk.digest and bulk.job.task is TaskKind.SUMMARIZE,  # only summaries have one
        only_changed=bulk.only_changed,
        destination=bulk.to,
    )


class TimeOut(Answered):
    """A time to come."""

    utc: datetime
    local: str = Field(
        description="By the zone's clock, with its offset then.", examples=["2027-01-31T06:00:00+01:00"]
    )
    utc_offset: str = Field(examples=["+01:00"])
    fires_at: datetime = Field(description="In UTC, with the jitter.")


class PreviewOut(Answered):
    """The next times of a schedule, as if it were not paused."""

    timezone: str
    data: list[TimeOut]


class ScheduleOut(Answered):
    """A schedule; `job` or `bulk` may be sent again as they are."""

    id: str = Field(examples=["sch_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    name: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up_seconds: int
    jitter_seconds: int
    max_failures: int
    failures: int = Field(description="In a row, up to now.")
    project: str = Field(description="What its jobs are billed under: that of the key it was made with.")
    job: dict[str, Any] | None
    bulk: dict[str, Any] | None
    next_at: datetime | None = Field(description="Null while it is paused.")
    paused_at: datetime | None
    pause_reason: str | None
    created_at: datetime
    updated_at: datetime


class SchedulePage(Page):
    """A page of schedules, newest first."""

    data: list[ScheduleOut]


class RunCostOut(Answered):
    """An amount in one currency."""

    amount: Number
    currency: str = Field(examples=["USD"])


class RunOut(Answered):
    """One time of a schedule, and what came of it."""

    id: str = Field(examples=["run_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    schedule_id: str
    scheduled_for: datetime
    fires_at: datetime
    manual: bool
    state: RunState
    job_id: str | None
    bulk_id: str | None
    reason: ErrorOut | None = Field(description="Why it waits, or ended without success.")
    cost: list[RunCostOut] = Field(description="What is billed by now, one amount a currency.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunPage(Page):
    """A page of runs, the latest time first."""

    data: list[RunOut]
