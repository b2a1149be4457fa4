"""The service over REST: a client without torch."""

from palimpsest_client.client import ApiError, Client
from palimpsest_client.fields import drop_none

__all__ = ["ApiError", "Client", "drop_none"]
