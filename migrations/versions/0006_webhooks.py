"""Webhooks, and what was sent to them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _text(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _json(name: str, default: str | None = None) -> sa.Column:
    server_default = None if default is None else sa.text(default)
    return sa.Column(
        name, postgresql.JSONB(astext_type=sa.Text()), server_default=server_default, nullable=False
    )


def _moment(name: str, *, now: bool = False) -> sa.Column:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def upgrade() -> None:
    op.create_table(
        "webhooks",
        *_text("id", "tenant_id", "url"),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        _json("events"),
        _moment("created_at", now=True),
        sa.Column("generation", sa.BigInteger(), server_default="1", nullable=False),
        _moment("rotated_at"),
        _moment("failing_since"),
        _moment("disabled_at"),
        *_text("disabled_reason", nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhooks_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_tenant_id_id"), "webhooks", ["tenant_id", "id"])
    op.create_table(
        "webhook_deliveries",
        *_text("id", "webhook_id", "tenant_id", "message_id", "event_type"),
        _json("payload"),
        _moment("created_at", now=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        _moment("next_at", now=True),
        _moment("lease_until"),
        sa.Column("last_status", sa.BigInteger(), nullable=True),
        *_text("last_error", nullable=True),
        _moment("delivered_at"),
        _json("log", "'[]'::jsonb"),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhook_deliveries_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_webhook_id_id"), "webhook_deliveries", ["webhook_id", "id"])
    op.create_index(op.f("ix_webhook_deliveries_created_at"), "webhook_deliveries", ["created_at"])
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["webhook_id", "next_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
