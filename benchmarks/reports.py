"""The speed of cost reports on a ledger of a million rows in the embedded PostgreSQL.

`python -m benchmarks.reports '{"rows": 1000000}'` prints one line of JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, text

from benchmarks.embedded_service import embedded_postgres
from namm_runtime.machine import machine
from store.billing import bills, ledger, reports
from store.billing.time_buckets import Width
from store.database import Database

DAYS = 90
REPEATS = 15
GROUPS = ("model", "scorer_version")
METRICS = ("jobs", "device_seconds", "cost", "cost_waste", "saving_allocated", "saving_realised")
# One attempt per job, with the lines that a worker writes; four models, five scorer versions, two tenants.
FILL = """
INSERT INTO tenants (id, name) VALUES ('ten_0', 'zero'), ('ten_1', 'one');
INSERT INTO documents (id, tenant_id, sha256, bytes, media_type, blob_key)
SELECT 'doc_' || n, 'ten_' || n, repeat('0', 64), 4000000, 'text/plain', 'k' FROM generate_series(0, 1) AS n;
CREATE TEMP TABLE made AS
SELECT 'job_' || lpad(n::text, 8, '0') AS id, 'ten_' || n % 2 AS tenant, 'model-' || n % 4 AS model,
       'namm@' || n % 5 AS scorer, now() - interval '90 days' * ((n + 0.5) / :jobs) AS ended
FROM generate_series(0, :jobs - 1) AS n;
INSERT INTO jobs (id, tenant_id, document_id, task, prompts, model, policy, max_output_tokens, state, attempt,
                  created_at, succeeded_at)
SELECT id, tenant, 'doc_' || right(tenant, 1), 'ask', '["?"]', model, 'namm', 64, 'succeeded', 1, ended, ended
FROM made;
INSERT INTO attempts (job_id, attempt, tenant_id, token, worker, started_at, ended_at, outcome, ended_job,
                      device_type, device_memory_bytes, price_book_id, scorer, usage)
SELECT id, 1, tenant, row_number() OVER (), 'w', ended, ended, 'succeeded', true, 'cpu', 8589934592,
       'prc_placeholder', scorer, '{"budget": 512}' FROM made;
INSERT INTO usage_ledger (id, tenant_id, job_id, attempt, meter, seq, quantity, unit, measurement,
                          method_version, created_at)
SELECT 'use_' || made.id || meter, tenant, made.id, 1, meter, 0, random() * size, unit, 'measured',
       'usage-2', ended
FROM made CROSS JOIN (VALUES
    ('device_seconds.count', 9, 'second'), ('device_seconds.read', 99, 'second'),
    ('device_seconds.score', 99, 'second'), ('device_seconds.answer', 9, 'second'),
    ('device_seconds.snapshot', 1, 'second'), ('tokens.document', 1000000, 'token'),
    ('tokens.read', 1000000, 'token'), ('tokens.prompt', 99, 'token'), ('tokens.generated', 99, 'token'),
    ('tokens.kept', 999, 'token'), ('tokens.evicted', 1000000, 'token'), ('kv_bytes.kept', 9e6, 'byte'),
    ('kv_bytes.resident', 9e6, 'byte'), ('kv_bytes.peak', 9e6, 'byte'), ('kv_bytes.dense', 9e9, 'byte'),
    ('kv_byte_seconds.actual', 9e9, 'byte-second'), ('kv_byte_seconds.dense', 9e12, 'byte-second'),
    ('snapshot_bytes', 9e6, 'byte')) AS meters(meter, size, unit)
"""
LINES_A_JOB = 18


def measure(rows: int) -> dict[str, Any]:
    """Fill a ledger and time queries on it."""
    with embedded_postgres() as (url, _):
        return _ask(Database(url), rows) | {"machine": machine()}


def _ask(database: Database, rows: int) -> dict[str, Any]:
    jobs = rows // LINES_A_JOB + 1
    with database.session() as session:
        for statement in FILL.split(";\n"):
            named = {"jobs": jobs} if ":jobs" in statement else {}
            session.execute(text(statement), named)
    begun = time.perf_counter()
    with database.session() as session:
        made = bills.rebuild(session)
    rebuilding = time.perf_counter() - begun
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        lines = connection.scalar(text("SELECT count(*) FROM usage_ledger"))
        version = connection.scalar(text("SHOW server_version"))
    now = datetime.now(UTC)
    start = now - timedelta(days=DAYS)
    query = reports.Query(None, start, now, Width.DAY, group_by=GROUPS, metrics=METRICS)

    def report() -> None:
        with database.session() as session:
            assert len(reports.run(session, query).buckets) in (DAYS, DAYS + 1)

    def bill() -> None:
        with database.session() as session:
            assert len(ledger.cost(session, "ten_0", f"job_{jobs // 4 * 2:08}").lines) == LINES_A_JOB

    return {
        "rows": lines,
        "bills": made,
        "days": DAYS,
        "groups": list(GROUPS),
        "metrics": list(METRICS),
        "report_seconds": _median(report),
        "bill_seconds": _median(bill),
        "rebuild_seconds": round(rebuilding, 1),
        "repeats": REPEATS,
        "postgres": version,
        "report_plan": _plan(database.engine, report, "width_bucket"),
        "bill_plan": _plan(database.engine, bill, "usage_ledger"),
    }


def _median(act: Callable[[], None]) -> float:
    act()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return round(statistics.median(seconds), 4)


def _plan(engine: Engine, act: Callable[[], None], word: str) -> list[str]:
    """EXPLAIN ANALYZE of the last statement containing `word` that `act` executes."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if word in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    act()
    event.remove(engine, "before_cursor_execute", note)
    statement, parameters = seen[-1]
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
        return [row[0][:200] for row in found]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(**json.loads(sys.argv[1]))) + "\n")
