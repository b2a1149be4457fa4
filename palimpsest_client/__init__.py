"""A client of the REST API; does not load torch."""

from palimpsest_client.client import ApiError, Client
from palimpsest_client.fields import drop_none

__all__ = ["ApiError", "Client", "drop_none"]
