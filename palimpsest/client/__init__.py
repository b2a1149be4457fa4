"""The service over REST."""

from palimpsest.client.client import ApiError, Client

__all__ = ["ApiError", "Client"]
