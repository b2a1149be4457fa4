"""The fields of one line, validated on access."""

from typing import Any


class BadRecord(ValueError):
    """Why a line is not a valid question."""


class Record:
    """The fields of a line; every getter raises BadRecord, naming the field."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def text(self, name: str, default: str | None = None, empty: bool = False) -> str:
        value = self.fields.get(name, default)
        if value is None and name not in self.fields:
            raise BadRecord(f"the field '{name}' is missing")
        if not isinstance(value, str):
            raise BadRecord(f"the field '{name}' must be a string")
        if not empty and not value.strip():
            raise BadRecord(f"the field '{name}' is empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise BadRecord(f"the field '{name}' contains invalid characters (lone surrogates)")
        return value

    def texts(self, name: str, empty: bool = False) -> tuple[str, ...]:
        """A list of strings or numbers, or a single one."""
        if name not in self.fields:
            raise BadRecord(f"the field '{name}' is missing")
        value = self.fields[name]
        values = value if isinstance(value, list) else [value]
        if any(isinstance(entry, bool) or not isinstance(entry, str | int | float) for entry in values):
            raise BadRecord(f"the field '{name}' must be a list of strings or numbers")
        found = tuple(str(entry) for entry in values if str(entry).strip())
        if not found and not empty:
            raise BadRecord(f"the field '{name}' is empty")
        return found
