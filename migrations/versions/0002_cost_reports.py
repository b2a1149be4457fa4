"""Price books, bills and projects. What an attempt was priced at becomes a book of its own terms."""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

GUARD = """
CREATE TRIGGER price_books_immutable BEFORE UPDATE OR DELETE ON price_books
FOR EACH ROW EXECUTE FUNCTION refuse_price_book_change()
"""
NO_TRUNCATE = """
CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {function}()
"""
REFUSE_CHANGES = """
CREATE FUNCTION refuse_price_book_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'price_books never change: add one that takes effect later';
END $$
"""
# As in `store.billing.prices` when this was written; a migration does not change with the code.
PLACEHOLDER = {
    "price": [
        {"meter": "device_seconds", "device": "cpu", "unit": "device-hour", "amount": "0.10"},
        {"meter": "device_seconds", "device": None, "unit": "device-hour", "amount": "2.00"},
        {"meter": "storage_byte_seconds", "device": None, "unit": "GiB-month", "amount": "0.02"},
    ],
    "full_cache": [
        {
            "model": "bundled",
            "device": "cpu",
            "budget": 512,
            "constant": "0.374",
            "per_token": "0.0001876",
            "weights_bytes": 4003328,
            "source": "benchmarks/results/lengths.json: full against streaming, AMD EPYC, 2026-11-25",
        }
    ],
}
NOTE = "Round numbers of the order of rented machines, not anybody's prices. Load your own."

OLD_TERMS_TO_BOOKS = """
WITH terms AS (
    SELECT currency, price_per_device_hour AS amount, row_number() OVER (ORDER BY min(started_at)) AS number
    FROM attempts GROUP BY currency, price_per_device_hour
), added AS (
    INSERT INTO price_books (id, name, currency, effective_from, note, content)
    SELECT 'prc_upgraded_' || number, 'upgraded ' || number, currency,
           timestamptz '1990-01-01 00:00:00+00' + number * interval '1 second',
           'What attempts were priced at before there were price books.',
           jsonb_build_object('full_cache', '[]'::jsonb, 'price', jsonb_build_array(jsonb_build_object(
               'meter', 'device_seconds', 'device', NULL, 'unit', 'device-hour', 'amount', amount::text)))
    FROM terms RETURNING id
)
UPDATE attempts SET price_book_id = 'prc_upgraded_' || terms.number FROM terms
WHERE attempts.currency = terms.currency AND attempts.price_per_device_hour = terms.amount
  AND (SELECT count(*) FROM added) > 0
"""


def _quantity(name: str) -> sa.Column:
    return sa.Column(name, sa.Numeric(38, 6), server_default=sa.text("'0'"), nullable=False)


def _money(name: str) -> sa.Column:
    return sa.Column(name, sa.Numeric(38, 10), nullable=True)


def _maybe(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.Text(), nullable=True) for name in names]


def upgrade() -> None:
    op.create_table(
        "price_books",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_books")),
        sa.UniqueConstraint("effective_from", name=op.f("uq_price_books_effective_from")),
    )
    placeholder = sa.text(
        "INSERT INTO price_books (id, name, currency, effective_from, note, content) VALUES "
        "('prc_placeholder', 'placeholder', 'USD', timestamptz '2000-01-01 00:00:00+00', :note, "
        "CAST(:content AS jsonb))"
    )
    op.execute(placeholder.bindparams(note=NOTE, content=json.dumps(PLACEHOLDER)))
    for table in ("api_keys", "jobs"):
        op.add_column(table, sa.Column("project", sa.Text(), server_default="default", nullable=False))
    for column in (*_maybe("price_book_id", "model_revision", "scorer", "scorer_sha256"),):
        op.add_column("attempts", column)
    op.add_column("attempts", sa.Column("scorer_quality", sa.Numeric(6, 4), nullable=True))
    ended = sa.Column("ended_job", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    op.add_column("attempts", ended)
    op.execute(OLD_TERMS_TO_BOOKS)
    op.execute("UPDATE attempts SET ended_job = outcome IN ('succeeded', 'failed', 'expired', 'cancelled')")
    op.execute(
        "UPDATE attempts SET model_revision = jobs.model_revision, scorer = jobs.scorer, "
        "scorer_sha256 = jobs.scorer_sha256 FROM jobs WHERE jobs.id = attempts.job_id"
    )
    op.alter_column("attempts", "price_book_id", nullable=False)
    op.create_foreign_key(
        op.f("fk_attempts_price_book_id"), "attempts", "price_books", ["price_book_id"], ["id"]
    )
    op.drop_column("attempts", "price_per_device_hour")
    op.drop_column("attempts", "currency")
    op.create_table(
        "bills",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("booked_at", sa.DateTime(timezone=True), nullable=False),
        *_maybe("project", "api_key_id", "model", "model_revision", "scorer", "policy"),
        sa.Column("priority", sa.BigInteger(), nullable=True),
        *_maybe("device_type"),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column(
            "tags",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_book_id", sa.Text(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        *map(
            _quantity,
            (
                "device_seconds",
                "score_seconds",
                "waste_seconds",
                "tokens_document",
                "tokens_kept",
                "tokens_read",
                "tokens_cached",
                "tokens_evicted",
                "tokens_prompt",
                "tokens_generated",
                "kv_byte_seconds",
                "dense_byte_seconds",
                "snapshot_bytes",
                "storage_byte_seconds",
            ),
        ),
        *map(_money, ("cost", "waste_cost", "allocated_saving", "full_cache_cost", "realised_saving")),
        *(
            sa.Column(name, sa.BigInteger(), nullable=True)
            for name in ("kept_bytes", "resident_bytes", "peak_bytes", "dense_bytes", "full_cache_devices")
        ),
        sa.Column("scorer_quality", sa.Numeric(6, 4), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_bills_tenant_id")),
        sa.ForeignKeyConstraint(["price_book_id"], ["price_books.id"], name=op.f("fk_bills_price_book_id")),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_bills")),
    )
    op.create_index(op.f("ix_bills_tenant_id_booked_at"), "bills", ["tenant_id", "booked_at"], unique=False)
    op.create_index(op.f("ix_bills_booked_at"), "bills", ["booked_at"], unique=False)
    op.execute(REFUSE_CHANGES)
    op.execute(GUARD)
    op.execute(NO_TRUNCATE.format(table="price_books", function="refuse_price_book_change"))
    op.execute(NO_TRUNCATE.format(table="usage_ledger", function="refuse_ledger_change"))


def downgrade() -> None:
    op.drop_table("bills")
    op.execute("DROP TRIGGER usage_ledger_no_truncate ON usage_ledger")
    op.add_column(
        "attempts", sa.Column("price_per_device_hour", sa.Numeric(20, 10), server_default="0", nullable=False)
    )
    op.add_column("attempts", sa.Column("currency", sa.Text(), server_default="USD", nullable=False))
    op.alter_column("attempts", "price_per_device_hour", server_default=None)
    op.alter_column("attempts", "currency", server_default=None)
    for name in ("price_book_id", "model_revision", "scorer", "scorer_sha256", "scorer_quality", "ended_job"):
        op.drop_column("attempts", name)
    for table in ("api_keys", "jobs"):
        op.drop_column(table, "project")
    op.drop_table("price_books")
    op.execute("DROP FUNCTION refuse_price_book_change()")
