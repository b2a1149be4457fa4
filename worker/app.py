"""The Celery app. A message is a wake-up call and carries a queue's name; Postgres knows the jobs.

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
registration.watch(app, settings())


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logs(**_: Any) -> None:
    log.configure(settings())
