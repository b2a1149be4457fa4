"""Fields of a request."""

from collections.abc import Mapping
from typing import Any


def drop_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value; the service's defaults apply to the others."""
    return {name: value for name, value in fields.items() if value is not None}
