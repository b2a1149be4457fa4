"""Views of stable names for tools that read SQL, and a role that may read nothing else."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

READER = "palimpsest_reader"

# Roles belong to the whole cluster: it may be there for another database, and a database's owner need not be
# allowed to make one.
CREATE_READER = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        CREATE ROLE {READER} NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL; -- made at the same moment for another database
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'The role {READER} could not be made: see docs/how-to/connect-a-bi-tool.md';
END $$
"""
GRANT_TO_READER = f"""
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
        GRANT USAGE ON SCHEMA reporting TO {READER};
        GRANT SELECT ON reporting.ledger_lines, reporting.job_costs, reporting.daily_costs, reporting.savings
            TO {READER};
    END IF;
END $$
"""

Column = tuple[str, str, str]  # name, expression, comment


def _sums(*names: str) -> list[Column]:
    return [(name, f"sum(bills.{name})", COMMENTS[name]) for name in names]


def _same(*names: str) -> list[Column]:
    """Columns of bills under their own names, or those of one."""
    return [(name, f"bills.{column}", COMMENTS[name]) for name, column in map(_named, names)]


def _last(*names: str) -> list[Column]:
    """What the job's last attempt says; one that was retried may have run with something else before."""
    return [
        (name, f"(array_agg(bills.{column} ORDER BY bills.attempt DESC))[1]", COMMENTS[name])
        for name, column in map(_named, names)
    ]


def _named(name: str) -> tuple[str, str]:
    return name, {"device": "device_type"}.get(name, name)


COMMENTS = {
    "tenant_id": "id of the tenant",
    "project": "project of the API key that made the job",
    "api_key_id": "id of that key",
    "model": "model the job asked for",
    "model_revision": "revision of its files",
    "scorer": "name@version of the scorer, null for policies without one",
    "policy": "policy the job asked for",
    "priority": "of the job, -100 to 100",
    "device": "type of the device",
    "outcome": "how the attempt ended: succeeded, failed, cancelled, expired, lost, released, or stored",
    "tags": "metadata of the job",
    "currency": "currency of every amount in the row",
    "price_book_id": "price book the attempt was billed by",
    "jobs": "jobs that ended, however they ended",
    "attempts": "attempts that ended",
    "device_seconds": "seconds on the device, measured",
    "score_seconds": "of them, in the scorer, measured",
    "waste_seconds": "of them, without a result, measured",
    "tokens_document": "tokens of the documents, measured",
    "tokens_read": "tokens read, again after a lost attempt, measured",
    "tokens_generated": "tokens answered, measured",
    "kv_byte_seconds": "what the cache held, over time, derived",
    "dense_byte_seconds": "what a full cache would have held, over time, derived",
    "storage_byte_seconds": "stored documents, over time, derived",
    "cost": "what was used at its price, derived (cost-2)",
    "waste_cost": "of it, without a result, derived (cost-2)",
    "allocated_saving": "memory saved as a share of the device at its price, estimated (allocated-1)",
    "full_cache_cost": "useful work with a full cache, where known, estimated (full-cache-1)",
    "realised_saving": "that less what useful work did cost, where known, estimated (realised-1)",
}
TENANT: Column = ("tenant", "tenants.name", "name of the tenant")
DAY: Column = ("day", "(bills.booked_at AT TIME ZONE 'UTC')::date", "day in UTC on which attempts ended")
UNPRICED: Column = (
    "unpriced_seconds",
    "coalesce(sum(bills.device_seconds) FILTER (WHERE bills.cost IS NULL), 0)",
    "device_seconds on devices that the price book has no price for: they are in no amount",
)
MEMORY_SAVED: Column = (
    "memory_saved_byte_seconds",
    "sum(bills.dense_byte_seconds - bills.kv_byte_seconds)",
    "dense_byte_seconds - kv_byte_seconds, derived (savings-1)",
)
QUALITY: Column = (
    "scorer_quality",
    "avg(bills.scorer_quality)",
    "mean share of a full cache's score, from the scorers' manifests (manifest-1)",
)
BILLS = "FROM bills JOIN tenants ON tenants.id = bills.tenant_id"

LEDGER_LINES: list[Column] = [
    ("id", "usage_ledger.id", "id of the line"),
    ("booked_at", "usage_ledger.created_at", "when the attempt ended"),
    ("tenant_id", "usage_ledger.tenant_id", COMMENTS["tenant_id"]),
    TENANT,
    ("job_id", "usage_ledger.job_id", "id of the job; storage:<tenant_id> for stored documents"),
    ("attempt", "usage_ledger.attempt", "number of the attempt; of the hour for stored documents"),
    *_same("project", "api_key_id", "model", "model_revision", "scorer", "policy", "priority", "device"),
    *_same("outcome", "tags"),
    ("meter", "usage_ledger.meter", "what was metered, such as device_seconds.read"),
    ("seq", "usage_ledger.seq", "0; 1 for what a lost attempt did after its last snapshot"),
    ("quantity", "usage_ledger.quantity", "how much, in `unit`"),
    ("unit", "usage_ledger.unit", "second, byte, byte-second or token"),
    ("measurement", "usage_ledger.measurement", "measured, derived or estimated"),
    ("method_version", "usage_ledger.method_version", "how the quantity came about"),
    ("waste", "usage_ledger.waste", "whether no result came of it"),
]
JOB_COSTS: list[Column] = [
    ("job_id", "bills.job_id", "id of the job"),
    *_same("tenant_id"),
    TENANT,
    *_last("project", "api_key_id", "model", "model_revision", "scorer", "policy", "priority", "device"),
    *_last("outcome", "tags", "price_book_id"),
    *_same("currency"),
    ("first_booked_at", "min(bills.booked_at)", "when its first attempt ended"),
    ("last_booked_at", "max(bills.booked_at)", "when its last attempt ended"),
    ("ended", "sum(bills.jobs) > 0", "whether the job has ended: no more will come"),
    *_sums("attempts", "device_seconds", "score_seconds", "waste_seconds"),
    UNPRICED,
    *_sums("tokens_document", "tokens_read", "tokens_generated", "kv_byte_seconds", "dense_byte_seconds"),
    MEMORY_SAVED,
    ("peak_bytes", "max(bills.peak_bytes)", "largest size of cache and scratch, derived"),
    ("dense_bytes", "max(bills.dense_bytes)", "size of a full cache, derived"),
    *_sums("cost", "waste_cost", "allocated_saving", "full_cache_cost", "realised_saving"),
    (
        "full_cache_devices",
        "max(bills.full_cache_devices)",
        "devices that weights and a full cache need, estimated",
    ),
    ("scorer_quality", "(array_agg(bills.scorer_quality ORDER BY bills.attempt DESC))[1]", QUALITY[2]),
]
DAILY_COSTS: list[Column] = [
    DAY,
    *_same("tenant_id"),
    TENANT,
    *_same("project", "model", "scorer", "policy", "device", "currency"),
    *_sums("jobs", "attempts", "device_seconds", "waste_seconds"),
    UNPRICED,
    *_sums("tokens_read", "storage_byte_seconds", "cost", "waste_cost"),
]
SAVINGS: list[Column] = [
    DAY,
    *_same("tenant_id"),
    TENANT,
    *_same("project", "model", "scorer", "policy", "device", "currency"),
    *_sums("jobs", "kv_byte_seconds", "dense_byte_seconds"),
    MEMORY_SAVED,
    ("memory_saved_gib_hours", f"({MEMORY_SAVED[1]}) / (1073741824.0 * 3600)", "the same in GiB-hours"),
    *_sums("device_seconds", "score_seconds", "cost", "allocated_saving"),
    (
        "jobs_with_full_cache_figure",
        "count(bills.full_cache_cost)",
        "jobs that full_cache_cost and realised_saving cover",
    ),
    *_sums("full_cache_cost", "realised_saving"),
    QUALITY,
]


def _grouped(columns: list[Column], names: tuple[str, ...]) -> str:
    numbers = [i for i, column in enumerate(columns, 1) if column[0] in names]
    return "GROUP BY " + ", ".join(map(str, numbers))


BY_DAY = ("day", "tenant_id", "tenant", "project", "model", "scorer", "policy", "device", "currency")
VIEWS: dict[str, tuple[str, list[Column], str]] = {
    "ledger_lines": (
        "One row a line of the usage ledger, with what its attempt was.",
        LEDGER_LINES,
        "FROM usage_ledger JOIN tenants ON tenants.id = usage_ledger.tenant_id "
        "LEFT JOIN bills ON bills.job_id = usage_ledger.job_id AND bills.attempt = usage_ledger.attempt",
    ),
    "job_costs": (
        "One row a job and currency, over all its attempts.",
        JOB_COSTS,
        f"{BILLS} WHERE bills.attempts = 1 "
        + _grouped(JOB_COSTS, ("job_id", "tenant_id", "tenant", "currency")),
    ),
    "daily_costs": (
        "What attempts that ended on a day, and documents stored on it, cost.",
        DAILY_COSTS,
        f"{BILLS} {_grouped(DAILY_COSTS, BY_DAY)}",
    ),
    "savings": (
        "What attempts that ended on a day saved, beside what they cost.",
        SAVINGS,
        f"{BILLS} WHERE bills.attempts = 1 {_grouped(SAVINGS, BY_DAY)}",
    ),
}


def upgrade() -> None:
    op.execute("CREATE SCHEMA reporting")
    for view, (comment, columns, source) in VIEWS.items():
        selected = ", ".join(f"{expression} AS {name}" for name, expression, _ in columns)
        op.execute(f"CREATE VIEW reporting.{view} AS SELECT {selected} {source}")
        op.execute(f"COMMENT ON VIEW reporting.{view} IS {_quoted(comment)}")
        for name, _, text in columns:
            op.execute(f"COMMENT ON COLUMN reporting.{view}.{name} IS {_quoted(text)}")
    op.execute(CREATE_READER)
    op.execute(GRANT_TO_READER)


def _quoted(text: str) -> str:
    # A colon would be read as the beginning of a parameter.
    return "'" + text.replace("'", "''").replace(":", "\\:") + "'"


def downgrade() -> None:
    # What was granted goes with the views; the role stays, other databases may use it.
    for view in VIEWS:
        op.execute(f"DROP VIEW reporting.{view}")
    op.execute("DROP SCHEMA reporting")
