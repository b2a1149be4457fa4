"""Schedules and their runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _text(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _moments(*names: str, nullable: bool = False, now: bool = False) -> list[sa.Column]:
    kind, default = sa.DateTime(timezone=True), sa.text("now()") if now else None
    return [sa.Column(name, kind, server_default=default, nullable=nullable) for name in names]


def _number(name: str, default: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), server_default=default, nullable=False)


def _word(name: str, default: str) -> sa.Column:
    return sa.Column(name, sa.Text(), server_default=default, nullable=False)


def _points_at(table: str, column: str, target: str) -> sa.Constraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    op.create_table(
        "schedules",
        *_text("id", "tenant_id"),
        *_text("api_key_id", nullable=True),
        _word("project", "default"),
        *_text("name", "cron", "timezone", "kind"),
        sa.Column("template", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        _word("overlap", "skip"),
        _number("catch_up_seconds", "3600"),
        _number("jitter_seconds", "0"),
        _number("max_failures", "5"),
        _number("failures", "0"),
        *_moments("next_at", "paused_at", nullable=True),
        *_text("pause_reason", nullable=True),
        *_moments("created_at", "updated_at", now=True),
        *_moments("deleted_at", nullable=True),
        sa.CheckConstraint(
            "overlap IN ('skip', 'queue', 'cancel_previous')", name=op.f("ck_schedules_overlap")
        ),
        sa.CheckConstraint("kind IN ('job', 'bulk')", name=op.f("ck_schedules_kind")),
        _points_at("schedules", "tenant_id", "tenants"),
        _points_at("schedules", "api_key_id", "api_keys"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index(
        "uq_schedules_tenant_id_name",
        "schedules",
        ["tenant_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_schedules_next_at"),
        "schedules",
        ["next_at"],
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    op.create_table(
        "schedule_runs",
        *_text("id", "schedule_id", "tenant_id"),
        *_moments("scheduled_for", "fires_at"),
        sa.Column("manual", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _word("state", "waiting"),
        *_text("job_id", "bulk_id", "reason_code", "reason", nullable=True),
        *_moments("created_at", now=True),
        *_moments("started_at", "ended_at", nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'skipped', 'missed')",
            name=op.f("ck_schedule_runs_state"),
        ),
        _points_at("schedule_runs", "schedule_id", "schedules"),
        _points_at("schedule_runs", "tenant_id", "tenants"),
        _points_at("schedule_runs", "job_id", "jobs"),
        _points_at("schedule_runs", "bulk_id", "bulks"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_runs")),
        sa.UniqueConstraint(
            "schedule_id", "scheduled_for", name=op.f("uq_schedule_runs_schedule_id_scheduled_for")
        ),
    )
    op.create_index(
        "ix_schedule_runs_open",
        "schedule_runs",
        ["schedule_id"],
        postgresql_where=sa.text("state IN ('waiting', 'running')"),
    )


def downgrade() -> None:
    op.drop_table("schedule_runs")
    op.drop_table("schedules")
