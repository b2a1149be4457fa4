"""Tenants and their API keys."""

from store.tenants.repository import (
    DEFAULT_TENANT,
    ensure,
    exists,
    named,
)

__all__ = ["DEFAULT_TENANT", "ensure", "exists", "named"]
