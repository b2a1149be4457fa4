"""The scorer registry, its audit log, and API keys that may change it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

REFUSE_CHANGES = """
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only';
END $$
"""
GUARD = """
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()
"""
NO_TRUNCATE = """
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()
"""


def _text(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _json(name: str, *, nullable: bool = False) -> sa.Column:
    default = None if nullable else sa.text("'{}'::jsonb")
    return sa.Column(name, postgresql.JSONB(astext_type=sa.Text()), server_default=default, nullable=nullable)


def _moment(name: str, *, now: bool = False) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def _number(name: str, default: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), server_default=default, nullable=False)


def upgrade() -> None:
    op.add_column(
        "api_keys", sa.Column("admin", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_table(
        "scorer_versions",
        *_text("id", "name", "version"),
        sa.Column("state", sa.Text(), server_default="uploaded", nullable=False),
        *_text("kind", "upload_key", "upload_sha256"),
        *_text("blob_key", "sha256", nullable=True),
        _json("manifest", nullable=True),
        _json("evaluation", nullable=True),
        *_text("reason", nullable=True),
        _number("attempts", "0"),
        _moment("checking_until"),
        _moment("hinted_at", now=True),
        *_text("created_by"),
        _moment("created_at", now=True),
        _moment("checked_at"),
        sa.CheckConstraint(
            "state IN ('uploaded', 'verified', 'active', 'retired', 'rejected')",
            name=op.f("ck_scorer_versions_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorer_versions")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_scorer_versions_name_version")),
    )
    op.create_index(
        "ix_scorer_versions_uploaded",
        "scorer_versions",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("state = 'uploaded'"),
    )
    op.create_table(
        "scorer_activations",
        *_text("id", "name", "scope", "alias", "version_id"),
        _number("percent", "100"),
        _number("shadow_percent", "0"),
        _json("bounds"),
        *_text("activated_by"),
        _moment("activated_at", now=True),
        _moment("ended_at"),
        *_text("ended_by", "ended_reason", nullable=True),
        sa.Column("rolled_back", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("alias IN ('stable', 'canary')", name=op.f("ck_scorer_activations_alias")),
        sa.CheckConstraint(
            "percent BETWEEN 0 AND 100 AND shadow_percent BETWEEN 0 AND 100",
            name=op.f("ck_scorer_activations_percent"),
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["scorer_versions.id"], name=op.f("fk_scorer_activations_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorer_activations")),
    )
    op.create_index(
        "uq_scorer_activations_open",
        "scorer_activations",
        ["name", "scope", "alias"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        op.f("ix_scorer_activations_version_id"), "scorer_activations", ["version_id"], unique=False
    )
    op.create_table(
        "scorer_shadow_runs",
        *_text("job_id", "version_id", "tenant_id", "stable"),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("agreed", sa.BigInteger(), nullable=False),
        *_text("error", nullable=True),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        _moment("created_at", now=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_scorer_shadow_runs_job_id")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["scorer_versions.id"], name=op.f("fk_scorer_shadow_runs_version_id")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_scorer_shadow_runs_tenant_id")),
        sa.PrimaryKeyConstraint("job_id", "version_id", name=op.f("pk_scorer_shadow_runs")),
    )
    op.create_index(
        op.f("ix_scorer_shadow_runs_created_at"), "scorer_shadow_runs", ["created_at"], unique=False
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        _moment("at", now=True),
        *_text("actor", "action", "subject"),
        _json("detail"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_subject_id"), "audit_log", ["subject", "id"], unique=False)
    op.create_table(
        "worker_scorers",
        *_text("worker_id", "scorer"),
        *_text("sha256", nullable=True),
        _moment("loaded_at", now=True),
        _moment("used_at", now=True),
        *_text("error", nullable=True),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name=op.f("fk_worker_scorers_worker_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("worker_id", "scorer", name=op.f("pk_worker_scorers")),
    )
    op.create_index(op.f("ix_bills_scorer_booked_at"), "bills", ["scorer", "booked_at"], unique=False)
    op.execute(REFUSE_CHANGES)
    op.execute(GUARD)
    op.execute(NO_TRUNCATE)


def downgrade() -> None:
    op.drop_index(op.f("ix_bills_scorer_booked_at"), table_name="bills")
    for name in (
        "worker_scorers",
        "audit_log",
        "scorer_shadow_runs",
        "scorer_activations",
        "scorer_versions",
    ):
        op.drop_table(name)
    op.execute("DROP FUNCTION refuse_audit_change()")
    op.drop_column("api_keys", "admin")
