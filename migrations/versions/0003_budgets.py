"""Budgets, and which of them keeps a job in the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _claimable(where: str) -> None:
    op.create_index(
        "ix_jobs_claimable",
        "jobs",
        ["model", sa.text("priority DESC"), "deadline_at", "id"],
        unique=False,
        postgresql_where=sa.text(where),
    )


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(38, 10), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("crossed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("project IS NULL OR api_key_id IS NULL", name=op.f("ck_budgets_scope")),
        sa.CheckConstraint("period IN ('day', 'week', 'month')", name=op.f("ck_budgets_period")),
        sa.CheckConstraint("action IN ('notify', 'queue', 'reject')", name=op.f("ck_budgets_action")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_budgets_amount")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_budgets_tenant_id")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_budgets_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
    )
    op.create_index(
        "uq_budgets_scope_period_action",
        "budgets",
        [
            "tenant_id",
            sa.text("coalesce(project, '')"),
            sa.text("coalesce(api_key_id, '')"),
            "period",
            "action",
        ],
        unique=True,
    )
    op.add_column("jobs", sa.Column("held_by_budget", sa.Text(), nullable=True))
    op.create_index(
        op.f("ix_jobs_held_by_budget"),
        "jobs",
        ["held_by_budget"],
        unique=False,
        postgresql_where=sa.text("held_by_budget IS NOT NULL"),
    )
    op.drop_index("ix_jobs_claimable", table_name="jobs")
    _claimable("state = 'queued' AND held_by_budget IS NULL")


def downgrade() -> None:
    op.drop_index("ix_jobs_claimable", table_name="jobs")
    op.drop_index(op.f("ix_jobs_held_by_budget"), table_name="jobs")
    op.drop_column("jobs", "held_by_budget")
    _claimable("state = 'queued'")
    op.drop_table("budgets")
