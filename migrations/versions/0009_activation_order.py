"""Activations are numbered by the database; shadow runs say how they ended; jobs rest after a refusal."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Older rows keep the order in which they were shown until now.
NUMBER_OLDER = """
UPDATE scorer_activations AS one SET number = counted.number
FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM scorer_activations) AS counted
WHERE one.id = counted.id
"""
GO_ON = """
SELECT setval('activation_numbers', (SELECT coalesce(max(number), 0) + 1 FROM scorer_activations), false)
"""

# Of older shadow runs, those that took no time never began.
SAY_HOW = """
UPDATE scorer_shadow_runs SET outcome = CASE
    WHEN error IS NULL THEN 'answered' WHEN device_seconds = 0 THEN 'not_made' ELSE 'broke' END
"""


def upgrade() -> None:
    op.execute("CREATE SEQUENCE activation_numbers AS BIGINT")
    op.add_column("scorer_activations", sa.Column("number", sa.BigInteger(), nullable=True))
    op.execute(NUMBER_OLDER)
    op.execute(GO_ON)
    op.alter_column(
        "scorer_activations",
        "number",
        nullable=False,
        server_default=sa.text("nextval('activation_numbers')"),
    )
    op.create_unique_constraint(op.f("uq_scorer_activations_number"), "scorer_activations", ["number"])
    op.add_column("scorer_shadow_runs", sa.Column("outcome", sa.Text(), nullable=True))
    op.execute(SAY_HOW)
    op.alter_column("scorer_shadow_runs", "outcome", nullable=False)
    op.create_check_constraint(
        op.f("ck_scorer_shadow_runs_outcome"),
        "scorer_shadow_runs",
        "outcome IN ('answered', 'broke', 'not_made')",
    )
    op.add_column("jobs", sa.Column("refusals", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("refused_by", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("claimable_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("claimable_at", "refused_by", "refusals"):
        op.drop_column("jobs", name)
    op.drop_constraint(op.f("ck_scorer_shadow_runs_outcome"), "scorer_shadow_runs")
    op.drop_column("scorer_shadow_runs", "outcome")
    op.drop_constraint(op.f("uq_scorer_activations_number"), "scorer_activations")
    op.drop_column("scorer_activations", "number")
    op.execute("DROP SEQUENCE activation_numbers")
