"""Times that the tests of schedules agree on."""

from datetime import UTC, datetime

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
