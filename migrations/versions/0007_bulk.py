"""Prompt templates, collections, bulk jobs and their items; jobs know what they are a part of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _text(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.Text(), nullable=nullable) for name in names]


def _json(name: str, *, empty: bool = False) -> sa.Column:
    default = sa.text("'{}'::jsonb") if empty else None
    return sa.Column(name, postgresql.JSONB(astext_type=sa.Text()), server_default=default, nullable=False)


def _moments(*names: str, now: bool = False) -> list[sa.Column]:
    kind, default = sa.DateTime(timezone=True), sa.text("now()") if now else None
    return [sa.Column(name, kind, server_default=default, nullable=not now) for name in names]


def _number(name: str, default: str | None = None) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), server_default=default, autoincrement=False, nullable=False)


def _flag(name: str, default: str | None = None) -> sa.Column:
    return sa.Column(name, sa.Boolean(), server_default=sa.text(default) if default else None, nullable=False)


def _word(name: str, default: str) -> sa.Column:
    return sa.Column(name, sa.Text(), server_default=default, nullable=False)


def _points_at(table: str, column: str, target: str, ondelete: str | None = None) -> sa.Constraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name, ondelete=ondelete)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("bulk_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("bulk_seq", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("template", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("summary_prompts", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(
        op.f("ix_jobs_bulk_id"), "jobs", ["bulk_id"], postgresql_where=sa.text("bulk_id IS NOT NULL")
    )
    op.create_table(
        "prompt_templates",
        *_text("tenant_id", "name"),
        _number("version"),
        *_text("prompt"),
        _flag("each_point"),
        *_moments("created_at", now=True),
        _points_at("prompt_templates", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("tenant_id", "name", "version", name=op.f("pk_prompt_templates")),
    )
    op.create_table(
        "collections",
        *_text("id", "tenant_id", "name"),
        *_text("source", "glob", nullable=True),
        *_moments("created_at", now=True),
        *_moments("refresh_requested_at", "refreshed_at"),
        *_text("refresh_error", nullable=True),
        _points_at("collections", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_collections_tenant_id_name")),
    )
    op.create_index(
        op.f("ix_collections_refresh_requested_at"),
        "collections",
        ["refresh_requested_at"],
        postgresql_where=sa.text("refresh_requested_at IS NOT NULL"),
    )
    op.create_table(
        "collection_items",
        *_text("collection_id", "path", "tenant_id"),
        *_text("document_id", "sha256", "fingerprint", "error_code", "error_message", nullable=True),
        *_moments("added_at", "changed_at", "seen_at", now=True),
        *_moments("deleted_at"),
        _points_at("collection_items", "collection_id", "collections", "CASCADE"),
        _points_at("collection_items", "tenant_id", "tenants"),
        _points_at("collection_items", "document_id", "documents"),
        sa.PrimaryKeyConstraint("collection_id", "path", name=op.f("pk_collection_items")),
    )
    op.create_table(
        "bulks",
        *_text("id", "tenant_id"),
        *_text("api_key_id", nullable=True),
        _word("project", "default"),
        *_text("collection_id", "collection_name", nullable=True),
        _json("ask"),
        *_moments("deadline_at"),
        _word("strategy", "whole"),
        _flag("only_changed", "false"),
        _flag("digest", "true"),
        *_text("destination", "model", "template", nullable=True),
        _json("metadata", empty=True),
        _word("state", "listing"),
        _number("round", "1"),
        *_text("digest_document_id", "digest_job_id", "digest_error", "bundle_key", nullable=True),
        *_moments("delivered_at"),
        *_text("delivery_error", "error_code", "error_message", nullable=True),
        *_moments("created_at", now=True),
        *_moments("listed_at", "cancel_requested_at", "ended_at"),
        sa.CheckConstraint(
            "state IN ('listing', 'running', 'digesting', 'bundling', 'cancelling', 'succeeded', 'failed', "
            "'cancelled')",
            name=op.f("ck_bulks_state"),
        ),
        sa.CheckConstraint("strategy IN ('whole', 'map_reduce')", name=op.f("ck_bulks_strategy")),
        _points_at("bulks", "tenant_id", "tenants"),
        _points_at("bulks", "api_key_id", "api_keys"),
        _points_at("bulks", "collection_id", "collections", "SET NULL"),
        _points_at("bulks", "digest_document_id", "documents"),
        _points_at("bulks", "digest_job_id", "jobs"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulks")),
    )
    op.create_index(op.f("ix_bulks_tenant_id_id"), "bulks", ["tenant_id", "id"])
    op.create_index(
        "ix_bulks_active",
        "bulks",
        ["id"],
        postgresql_where=sa.text("state NOT IN ('succeeded', 'failed', 'cancelled')"),
    )
    op.create_table(
        "bulk_items",
        *_text("bulk_id"),
        _number("seq"),
        *_text("tenant_id", "path"),
        *_text("document_id", "sha256", nullable=True),
        _word("state", "pending"),
        *_text("job_id", "error_code", "error_message", nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'mapped', 'submitted', 'failed', 'cancelled')",
            name=op.f("ck_bulk_items_state"),
        ),
        _points_at("bulk_items", "bulk_id", "bulks"),
        _points_at("bulk_items", "tenant_id", "tenants"),
        _points_at("bulk_items", "document_id", "documents"),
        _points_at("bulk_items", "job_id", "jobs"),
        sa.PrimaryKeyConstraint("bulk_id", "seq", name=op.f("pk_bulk_items")),
        sa.UniqueConstraint("bulk_id", "path", name=op.f("uq_bulk_items_bulk_id_path")),
    )
    op.create_index(op.f("ix_bulk_items_job_id"), "bulk_items", ["job_id"])
    op.create_index(
        "ix_bulk_items_pending",
        "bulk_items",
        ["bulk_id", "seq"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "bulk_parts",
        *_text("bulk_id"),
        _number("seq"),
        _number("part"),
        *_text("tenant_id", "job_id"),
        sa.ForeignKeyConstraint(
            ["bulk_id", "seq"],
            ["bulk_items.bulk_id", "bulk_items.seq"],
            name=op.f("fk_bulk_parts_bulk_id_seq"),
        ),
        _points_at("bulk_parts", "tenant_id", "tenants"),
        _points_at("bulk_parts", "job_id", "jobs"),
        sa.PrimaryKeyConstraint("bulk_id", "seq", "part", name=op.f("pk_bulk_parts")),
    )
    op.create_index(op.f("ix_bulk_parts_job_id"), "bulk_parts", ["job_id"])


def downgrade() -> None:
    for table in ("bulk_parts", "bulk_items", "bulks", "collection_items", "collections", "prompt_templates"):
        op.drop_table(table)
    op.drop_index(op.f("ix_jobs_bulk_id"), table_name="jobs")
    for column in ("summary_prompts", "template", "bulk_seq", "bulk_id"):
        op.drop_column("jobs", column)
