"""The digest of a folder with known facts, made by the whole service, and what it carries of them."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from namm_runtime.machine import machine
from palimpsest import digest_check
from palimpsest.machine.supervisor import running

EXAMPLE = Path(__file__).parents[1] / "examples" / "nightly-digest"


def measure(model: str, template: str, folder: Path, facts: Path, keep: Path | None) -> dict[str, Any]:
    """One row. `keep` is a folder for the bundle. The points asked for and the words are the defaults."""
    with tempfile.TemporaryDirectory(prefix="palimpsest-bench-") as place:
        bundle = keep or Path(place) / "bundle"
        environment = {"PALIMPSEST_MODEL": model, "PYTHONPATH": str(Path(__file__).parents[1])}
        with running(Path(place) / "data", environment=environment) as service:
            begun = time.perf_counter()
            command = ["bulk", str(folder), "--template", template, "--to", str(bundle)]
            subprocess.run(
                [sys.executable, "-c", "from palimpsest.cli import app; app()", *command],
                env=os.environ
                | environment
                | {"PALIMPSEST_URL": service.base_url, "PALIMPSEST_API_KEY": service.api_key},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            seconds = time.perf_counter() - begun
        found = digest_check.check(bundle, facts)
    return {
        "model": model,
        "template": template,
        "seconds": round(seconds),
        **found.as_json(),
        "machine": machine(),
    }
