"""Where the files of the embedded servers are, and which account the servers run as.

PostgreSQL refuses to run as root. Started as root, both servers therefore run as the account `nobody`, which
exists on every system; no account is created and no permission of an existing directory is changed. Files
that this account cannot reach (a checkout, a virtual environment or a data directory under a 0700 home) are
placed where it can: binaries are copied once, and the databases get their own directory, recorded in the data
directory.
"""

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path

from palimpsest.embedded.account import EmbeddedError, Identity
from store.atomic_files import write_text

# The system limit on a Unix socket's path is 108 bytes with its final NUL on Linux, 104 on macOS.
MAX_SOCKET_PATH = 103
LONGEST_SOCKET_NAME = ".s.PGSQL.5432.lock"
UNREACHED_HOMES = (Path("/var/lib/palimpsest"), Path("/var/tmp/palimpsest"))


def make_directory(path: Path, mode: int, identity: Identity | None = None) -> Path:
    """Create `path` with exactly `mode`, whatever the umask; an existing directory is left unchanged."""
    try:
        path.mkdir()
    except FileExistsError:
        return path
    path.chmod(mode)
    if identity is not None and identity.is_other:
        os.chown(path, identity.uid, identity.gid)
    return path


def _trusted_directory(path: Path, mode: int) -> Path:
    """`path`, created if missing; raises OSError if another account could have written to it."""
    make_directory(path, mode)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} exists, and other accounts can write to it")
    return path


def shared_home(identity: Identity) -> Path:
    """A directory owned by root that `identity` can traverse, for files that it cannot reach elsewhere."""
    problems = []
    for home in UNREACHED_HOMES:
        try:
            _trusted_directory(home, 0o755)
            if identity.walks_through(home):
                return home
            problems.append(f"{home} is not accessible to other accounts")
        except OSError as problem:
            problems.append(str(problem))
    raise EmbeddedError(
        "No directory could be created for the embedded servers (" + "; ".join(problems) + "); "
        "set DATABASE_URL and REDIS_URL, or start Palimpsest as an ordinary user."
    )


def make_data_directory(data: Path) -> Path:
    """The data directory, created if missing: readable by its owner only, and traversable by the servers'
    account."""
    data = data.expanduser().absolute()
    data.parent.mkdir(parents=True, exist_ok=True)
    return make_directory(data, 0o711 if os.geteuid() == 0 else 0o700)


def server_location(data: Path, identity: Identity) -> Path:
    """The directory of both servers' files: `data` itself if their account can reach it.

    Otherwise a directory is created once under `shared_home` and recorded in `data/servers.json`, so that the
    same data directory always finds the same databases.
    """
    record = data / "servers.json"
    if record.exists():
        location = Path(json.loads(record.read_text())["location"])
        if not location.is_dir():
            raise EmbeddedError(
                f"{record} says that the databases are in {location}, which does not exist; "
                "restore it, or delete the data directory to start over."
            )
    elif identity.walks_through(data):
        location = data
    else:
        location = Path(tempfile.mkdtemp(prefix="data-", dir=shared_home(identity)))
        location.chmod(0o711)
    if not identity.walks_through(location):
        raise EmbeddedError(f"The embedded servers' account (uid {identity.uid}) cannot reach {location}.")
    if not record.exists():
        write_text(record, json.dumps({"location": str(location)}) + "\n")
    return location


def socket_directory(location: Path, identity: Identity) -> Path:
    """A directory in which socket paths fit the system's limit: `location/run`, or a shorter path."""
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
    raise EmbeddedError(
        f"The path {location} is too long for a socket, and no shorter directory is available."
    )


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / LONGEST_SOCKET_NAME)) <= MAX_SOCKET_PATH
