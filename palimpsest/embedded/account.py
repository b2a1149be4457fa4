"""The account that the embedded servers run as."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class EmbeddedError(RuntimeError):
    """An embedded server cannot be run; the message says what to do instead."""


@dataclass(frozen=True)
class Identity:
    """The account the servers run as."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> "Identity":
        """The current account, or `nobody` for root.

        Raises EmbeddedError if root has no such account.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        try:
            account = pwd.getpwnam("nobody")
        except KeyError as missing:
            raise EmbeddedError(
                "PostgreSQL does not run as root, and this system has no account 'nobody' to run it as; "
                "start Palimpsest as an ordinary user, or set DATABASE_URL and REDIS_URL."
            ) from missing
        return cls(account.pw_uid, account.pw_gid)

    @property
    def is_other(self) -> bool:
        """Whether the servers run as another account than this process."""
        return self.uid != os.geteuid()

    def popen_arguments(self) -> dict[str, Any]:
        """Keyword arguments for subprocess that make the child run as this account."""
        if not self.is_other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def _may(self, path: Path, bits: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            return (status.st_mode >> 6) & bits == bits
        if status.st_gid == self.gid:
            return (status.st_mode >> 3) & bits == bits
        return status.st_mode & bits == bits

    def reaches(self, path: Path) -> bool:
        """Whether this account can reach `path` and read it, or execute or enter it."""
        path = path.resolve()
        own = 0o4 | (0o1 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0)
        return self.walks_through(path.parent) and self._may(path, own)

    def walks_through(self, directory: Path) -> bool:
        """Whether this account can traverse `directory` and all of its parents."""
        directory = directory.resolve()
        return all(self._may(step, 0o1) for step in (directory, *directory.parents))
