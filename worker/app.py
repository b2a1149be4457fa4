"""The Celery app. A message only wakes a worker and names a queue; the jobs are in Postgres.

python -m celery -A worker.app worker --without-gossip --without-mingle --hostname gpu0@%h
"""

from __future__ import annotations

from typing import Any

from celery import signals

from store import log
from store.settings import settings
from worker import registration
from worker.app_factory import make_app

app = make_app(settings())
registration.connect_signals(app, settings())


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logs(**_: Any) -> None:
    log.configure(settings())
