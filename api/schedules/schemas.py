"""Schedules in requests and responses."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.bulk.schemas import BulkWork
from api.jobs.schemas import TaskKind, Work
from api.schemas import MAX_DEADLINE, DocumentId, ErrorOut, Number, Page, RequestModel, ResponseModel, Text
from store.schedules import NewSchedule, Overlap, RunState, Template

Deadline = Annotated[float, Field(gt=0, le=MAX_DEADLINE.total_seconds())]
_FROM_START = "Seconds from the start of a run. Default: no deadline."


class ScheduledJob(Work):
    """A job that each run submits."""

    document_id: DocumentId
    deadline_seconds: Deadline | None = Field(None, description=_FROM_START)


class ScheduledBulk(BulkWork):
    """A bulk job that each run starts, over the collection as it is by then."""

    deadline_seconds: Deadline | None = Field(None, description=_FROM_START)


class ScheduleCreate(RequestModel):
    """A schedule and its work: a job for one document, or a bulk job over a collection."""

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
        description="Any name that is unique among your schedules."
    )
    cron: Annotated[Text, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Five fields: minute, hour, day of month, month, day of week. `L` and `#` are supported."
    )
    timezone: Annotated[Text, StringConstraints(min_length=1, max_length=100)] = Field(
        "UTC", description="IANA name of the time zone of the expression."
    )
    overlap: Overlap = Field(
        Overlap.SKIP,
        description="What happens if the previous run is still running: `skip` this one, `queue` it (only "
        "the newest), or `cancel_previous`.",
    )
    catch_up_seconds: int = Field(
        3600,
        ge=0,
        le=7 * 86_400,
        description="How late a run may start after an outage; only the latest missed run is started. "
        "Less than a minute counts as a minute.",
    )
    jitter_seconds: int = Field(
        0, ge=0, le=86_400, description="Delays each run by up to this time, to spread load."
    )
    max_failures: int = Field(5, ge=1, le=1000, description="Consecutive failures that pause the schedule.")
    job: ScheduledJob | None = None
    bulk: ScheduledBulk | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.job is None) == (self.bulk is None):
            raise PydanticCustomError("work_choice", "Give exactly one of job and bulk")
        return self

    def new(self, collection_id: str | None = None) -> NewSchedule:
        """The request in the store's form; `collection_id` is that of a bulk job's collection or source."""
        return NewSchedule(
            template=_template(self.job, self.bulk, collection_id),
            **self.model_dump(exclude={"job", "bulk", "overlap"}),
            overlap=self.overlap,
        )


def _template(job: ScheduledJob | None, bulk: ScheduledBulk | None, collection_id: str | None) -> Template:
    if job is not None:
        return Template("job", job.ask(), deadline_seconds=job.deadline_seconds, document_id=job.document_id)
    assert bulk is not None  # guaranteed by validation
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


class TimeOut(ResponseModel):
    """A future time of a schedule."""

    utc: datetime
    local: str = Field(
        description="In the time zone, with the offset at that time.", examples=["2027-01-31T06:00:00+01:00"]
    )
    utc_offset: str = Field(examples=["+01:00"])
    fires_at: datetime = Field(description="In UTC, with jitter.")


class PreviewOut(ResponseModel):
    """The next times of a schedule, whether or not it is paused."""

    timezone: str
    data: list[TimeOut]


class ScheduleOut(ResponseModel):
    """A schedule; its `job` or `bulk` can be sent back unchanged."""

    id: str = Field(examples=["sch_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    name: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up_seconds: int
    jitter_seconds: int
    max_failures: int
    failures: int = Field(description="Consecutive failures so far.")
    project: str = Field(
        description="Its jobs are billed to this project: that of the key it was created with."
    )
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


class RunCostOut(ResponseModel):
    """An amount in one currency."""

    amount: Number
    currency: str = Field(examples=["USD"])


class RunOut(ResponseModel):
    """One run of a schedule and its outcome."""

    id: str = Field(examples=["run_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    schedule_id: str
    scheduled_for: datetime
    fires_at: datetime
    manual: bool
    state: RunState
    job_id: str | None
    bulk_id: str | None
    reason: ErrorOut | None = Field(description="Why it is waiting, or did not succeed.")
    cost: list[RunCostOut] = Field(description="Billed so far, one amount per currency.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunPage(Page):
    """A page of runs, the latest first."""

    data: list[RunOut]
