"""Fixtures of the store: a database with prices in it, and jobs."""

from tests.unit.store.conftest import db, document, submit, tenant

__all__ = ["db", "document", "submit", "tenant"]
