"""A job's cache slots are called `cache_budget`; `budget` means money.

The requests that bulk jobs and schedules keep as JSON are renamed with the column. Price books never change,
so their `full_cache` entries keep the name they were written with, and readers take both.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RENAME_IN_BULKS = """
UPDATE bulks SET ask = (ask - '{old}') || jsonb_build_object('{new}', ask -> '{old}') WHERE ask ? '{old}'
"""
RENAME_IN_SCHEDULES = """
UPDATE schedules SET template = jsonb_set(
    template,
    '{{ask}}',
    ((template -> 'ask') - '{old}') || jsonb_build_object('{new}', template -> 'ask' -> '{old}')
) WHERE (template -> 'ask') ? '{old}'
"""


def _rename(old: str, new: str) -> None:
    op.alter_column("jobs", old, new_column_name=new)
    for statement in (RENAME_IN_BULKS, RENAME_IN_SCHEDULES):
        op.execute(sa.text(statement.format(old=old, new=new)))


def upgrade() -> None:
    _rename("budget", "cache_budget")


def downgrade() -> None:
    _rename("cache_budget", "budget")
