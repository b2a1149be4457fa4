"""The machine and date of a measurement."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers


def machine() -> dict[str, Any]:
    """Processor, threads, versions and date, which every published result includes."""
    model = platform.processor() or "unknown processor"
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
