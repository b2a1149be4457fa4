"""Stands for the process that verifies, and dies of the file it is given: its manifest says how."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

folder, out = (Path(argument) for argument in sys.argv[1:3])
how: str = json.loads((folder / "manifest.json").read_bytes())["provenance"]["how"]


def say(verdict: Any) -> None:
    (out / "verdict.json").write_text(json.dumps(verdict))


match how:
    case "abort":
        os.abort()
    case "exit":
        sys.exit(7)
    case "raise":
        raise RuntimeError("a defect")
    case "sleep":
        time.sleep(600)
    case "memory":
        time.sleep(1)  # until the limit is there
        len(bytearray(1 << 40))
    case "silence":
        pass
    case "nonsense":
        say(["yes"])
    case "lie":  # a verdict for files that it did not write
        say({"verified": True, "sha256": "0" * 64})
    case "environment":
        say({"verified": False, "code": "environment", "message": " ".join(sorted(os.environ))})
