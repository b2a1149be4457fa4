"""How a job reads its document, why its policy was chosen, and bills of documents that fit.

Jobs of before were read without their prompts: they are `open`. The requests that bulk jobs and schedules
keep as JSON asked for neither way, so they get the service's default, and `only_changed` still recognizes
what was done before.
"""

import importlib

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ASKED = """jsonb_build_object('reading', NULL, 'on_risk', 'report')"""
SAVED = "bills.dense_byte_seconds - bills.kv_byte_seconds"
SAVED_UNLESS_IT_FITS = f"CASE WHEN bills.fits THEN 0 ELSE {SAVED} END"
VIEWS = ("job_costs", "savings")
METHODS = (
    "savings",
    "allocated",
    "full-cache",
    "realised",
)  # their formulas say 0 now where nothing is saved


def upgrade() -> None:
    op.add_column("jobs", sa.Column("reading", sa.Text(), server_default="open", nullable=False))
    op.add_column("jobs", sa.Column("on_risk", sa.Text(), server_default="report", nullable=False))
    op.add_column("jobs", sa.Column("policy_reason", sa.Text(), nullable=True))
    op.add_column("jobs", _flag("policy_pending"))
    for name in ("default_policy", "default_policy_reason"):
        op.add_column("worker_models", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("bills", sa.Column("reading", sa.Text(), nullable=True))
    op.add_column("bills", _flag("fits"))
    for name in ("answers", "answers_at_risk", "rereads"):
        op.add_column("bills", sa.Column(name, sa.Numeric(38, 6), server_default="0", nullable=False))
    empty = sa.text("'[]'::jsonb")
    op.add_column("bills", sa.Column("warnings", postgresql.JSONB(), server_default=empty, nullable=False))
    op.execute(f"UPDATE bulks SET ask = ask || {ASKED}")
    op.execute(
        f"UPDATE schedules SET template = jsonb_set(template, '{{ask}}', (template -> 'ask') || {ASKED})"
    )
    _make_views(SAVED_UNLESS_IT_FITS, "2")


def _flag(name: str) -> sa.Column:
    return sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False)


def _make_views(saved: str, version: str) -> None:
    """The views of costs and savings anew, by this formula of the memory saved."""
    first = importlib.import_module("migrations.versions.0004_reporting_views")
    for view in VIEWS:
        _, columns, source = first.VIEWS[view]
        selected = ", ".join(
            f"{expression.replace(SAVED, saved)} AS {name}" for name, expression, _ in columns
        )
        op.execute(f"CREATE OR REPLACE VIEW reporting.{view} AS SELECT {selected} {source}")
        for name, _, text in columns:
            for method in METHODS:
                if f"({method}-1)" in text:
                    told = text.replace(f"({method}-1)", f"({method}-{version})").replace("'", "''")
                    op.execute(f"COMMENT ON COLUMN reporting.{view}.{name} IS '{told}'")


def downgrade() -> None:
    _make_views(SAVED, "1")
    op.execute("UPDATE bulks SET ask = ask - 'reading' - 'on_risk'")
    op.execute(
        "UPDATE schedules SET template = "
        "jsonb_set(template, '{ask}', (template -> 'ask') - 'reading' - 'on_risk')"
    )
    for name in ("warnings", "rereads", "answers_at_risk", "answers", "fits", "reading"):
        op.drop_column("bills", name)
    for name in ("default_policy_reason", "default_policy"):
        op.drop_column("worker_models", name)
    for name in ("policy_pending", "policy_reason", "on_risk", "reading"):
        op.drop_column("jobs", name)
