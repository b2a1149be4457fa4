"""All tables: columns, keys, indexes. Importing the package fills the metadata."""

from store.tables import (
    audit,
    billing,
    bulk,
    collections,
    documents,
    idempotency,
    jobs,
    outbox,
    schedules,
    scorers,
    templates,
    tenants,
    webhooks,
    workers,
)

__all__ = [
    "audit",
    "billing",
    "bulk",
    "collections",
    "documents",
    "idempotency",
    "jobs",
    "outbox",
    "schedules",
    "scorers",
    "templates",
    "tenants",
    "webhooks",
    "workers",
]
