"""Configures the Celery app; `worker.app` creates the instance that a worker runs."""

from __future__ import annotations

from celery import Celery
from kombu import Queue

from store.outbox import SCORERS, queue_of
from store.settings import Settings


def make_app(config: Settings) -> Celery:
    """A Celery app for these settings. Neither this module nor a worker's parent process loads torch."""
    app = Celery("palimpsest", broker=config.broker, include=["worker.tasks"])
    queue = queue_of(config.served_model)
    app.conf.update(
        # One process a device, spawned because CUDA and psycopg do not survive a fork.
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_concurrency=1,
        # A replacement child must be up within this time. The first task loads the model, not the start, so
        # a slow load cannot cause an endless loop of children that are killed while loading.
        worker_proc_alive_timeout=900,
        # Acknowledged on receipt: the lease in Postgres says who owns a job, not the broker.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        # A worker consumes the queue of its model, the shared queue of scorers to verify, and a queue of its
        # own for messages to itself.
        task_queues=[Queue(queue), Queue(SCORERS)],
        task_default_queue=queue,
        task_create_missing_queues=False,
        worker_direct=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": "palimpsest:",
            "visibility_timeout": 3600,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "health_check_interval": 25,
        },
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app
