"""How deep the tests look: an everyday run takes a sample, `make test-long` looks for minutes."""

import os

LONG = os.environ.get("PALIMPSEST_LONG_TESTS") == "1"


def deep(everyday: int, long: int) -> int:
    """How many examples, rounds or jobs a test takes."""
    return long if LONG else everyday
