"""A log of finished work, so that an interrupted evaluation can resume where it stopped."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """One line of JSON per finished unit, keyed by the hash of everything it depends on.

    A line that was incomplete when the process died is truncated. Lines of other models, scorers or suites
    stay in the file and are ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        self.entries[entry["key"]] = entry
                    except (ValueError, KeyError, TypeError):
                        break
                    if not line.endswith(b"\n"):
                        break
                    whole += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(whole)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Append an entry and sync it to disk."""
        self.entries[key] = entry = {"key": key, **entry}
        with self.path.open("ab") as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
