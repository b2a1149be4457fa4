"""The service over REST: a client without torch."""

from palimpsest_client.client import ApiError, Client

__all__ = ["ApiError", "Client"]
