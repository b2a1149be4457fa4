"""Download wheels with pip, from whatever index it is configured with."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from namm_runtime.errors import Refusal

CHOOSE_INDEX = "set PIP_INDEX_URL to choose another package index"
OFFLINE = re.compile(
    r"Retrying \(|NewConnectionError|ConnectTimeout|Could not fetch URL|Temporary failure in name resolution"
    r"|Network is unreachable|ProxyError|SSLError"
)


def download(requirement: str, folder: Path, report: Callable[[int], None]) -> Path:
    """Download one wheel into an empty folder, without its dependencies; nothing is installed or executed.

    Args:
        requirement: name and exact version, `name==1.2.3`.
        folder: also holds pip's temporary files, since the machine's own folder for them may be small.
        report: called with the bytes downloaded so far, about five times a second.

    Raises:
        Refusal: `pip_missing`, `package_not_found`, `index_unreachable`.
    """
    if find_spec("pip") is None:
        raise Refusal("pip_missing", f"{sys.executable} has no pip; run: {sys.executable} -m ensurepip")
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), requirement]
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    messages = folder / "pip.log"
    with messages.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                report(_size(folder))
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise _refusal(requirement, messages.read_text(errors="replace"))
    return wheels[0]


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`, the largest only: a wheel is copied when it is complete."""
    sizes = [0]
    for file in folder.rglob("*"):
        try:
            sizes.append(file.stat().st_size if file.is_file() else 0)
        except OSError:  # pip has just removed it
            continue
    return max(sizes)


def _refusal(requirement: str, messages: str) -> Refusal:
    lines = [line.removeprefix("ERROR: ") for line in messages.splitlines() if line.startswith("ERROR: ")]
    reason = lines[0].rstrip(".") if lines else "pip ended without a message"
    if OFFLINE.search(messages):
        return Refusal(
            "index_unreachable", f"pip cannot reach its package index for {requirement}; {CHOOSE_INDEX}"
        )
    if "No matching distribution" in messages or "Could not find a version" in messages:
        return Refusal(
            "package_not_found", f"the package index does not have {requirement} as a wheel; {CHOOSE_INDEX}"
        )
    return Refusal("download_failed", f"pip could not download {requirement}: {reason}; {CHOOSE_INDEX}")
