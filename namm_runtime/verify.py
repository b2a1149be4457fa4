"""Verify an uploaded scorer before it may serve.

python -m namm_runtime.verify FOLDER OUT --name NAME --version VERSION

FOLDER holds scorer.safetensors and manifest.json, or checkpoint.pt as written by the reference's trainer. OUT
gets the two verified files, and verdict.json: {"verified": true, "sha256": …} or
{"verified": false, "code": …, "message": …}.

Nothing in FOLDER is trusted. The caller limits time and memory, and treats an exit without a verdict as a
failed verification.
"""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from namm_runtime.errors import Refusal
from namm_runtime.process_pool import exit_at_end_of_input
from namm_runtime.scorer import checkpoint
from namm_runtime.scorer.checkpoint import Scorer
from namm_runtime.scorer.manifest import MANIFEST_FILE, OPTIONAL, REQUIRED, TENSORS_FILE

TENSORS = {"parameters", "mean", "variance"}
MAX_MANIFEST_BYTES = 1 << 20
SIZES, MAX_SIZE = ("width", "depth", "recency_floats"), 4096
GOLDEN_TOKENS = 96
DOCUMENT = "".join(
    f"On day {day} the ferry left pier {day * 7 % 30} with {day * 13} crates. " for day in range(60)
)
BUDGET, INTERVAL = 64, 128  # of the smoke test: the document is longer, so tokens are scored and evicted


def verify(folder: Path, out: Path, name: str, version: str) -> dict[str, Any]:
    """Write the files of a valid scorer to `out` → the verdict, which `main` writes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.pt").exists():
            _convert(folder / "checkpoint.pt", out, name, version)
        else:
            _adopt(folder, out, name, version)
        scorer = checkpoint.load(out)
        golden_scores(scorer)
        smoke_read(out)
    except Refusal as refusal:
        message = refusal.message.replace(f"{out}{os.sep}", "").replace(f"{folder}{os.sep}", "")
        return {"verified": False, "code": refusal.code, "message": message}
    return {"verified": True, "sha256": scorer.sha256}


def _convert(path: Path, out: Path, name: str, version: str) -> None:
    from namm_runtime.scorer.reference_checkpoint import import_checkpoint

    replace(import_checkpoint(path, name=name), version=version).save(out)


def _adopt(folder: Path, out: Path, name: str, version: str) -> None:
    """Copy the files after checking their sizes, the manifest's entries and the tensors' names.

    Raises:
        Refusal: `scorer_unreadable`, `scorer_wrong_shape`.
    """
    for file, limit in ((MANIFEST_FILE, MAX_MANIFEST_BYTES), (TENSORS_FILE, checkpoint.MAX_BYTES)):
        if not (folder / file).is_file():
            raise Refusal("scorer_unreadable", f"the upload has no {file}")
        if (folder / file).stat().st_size > limit:
            raise Refusal("scorer_unreadable", f"{file} is larger than {limit} bytes")
    try:
        entries = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (ValueError, RecursionError) as error:
        raise Refusal("scorer_unreadable", f"manifest.json is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise Refusal("scorer_unreadable", "manifest.json is not a JSON object")
    unknown = entries.keys() - {"format", *REQUIRED, *OPTIONAL}
    if unknown:
        raise Refusal("scorer_unreadable", f"unknown manifest entries: {str(sorted(unknown))[:200]}")
    config = entries.get("config")
    for entry in SIZES:
        size = config.get(entry) if isinstance(config, dict) else None
        if isinstance(size, int) and size > MAX_SIZE:  # even listing its tensors could exhaust memory
            raise Refusal("scorer_unreadable", f"'{entry}' in the manifest is larger than {MAX_SIZE}")
    text = json.dumps(entries | {"name": name, "version": version}, indent=2)
    (out / MANIFEST_FILE).write_text(text + "\n")
    shutil.copyfile(folder / TENSORS_FILE, out / TENSORS_FILE)
    try:
        with safe_open(out / TENSORS_FILE, "pt") as tensors:
            names = set(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise Refusal(
            "scorer_unreadable", f"scorer.safetensors cannot be read as safetensors: {error}"
        ) from None
    if names != TENSORS:
        held = ", ".join(sorted(names))[:200] or "none"
        raise Refusal("scorer_wrong_shape", f"the tensors must be {', '.join(sorted(TENSORS))}, not {held}")


def golden_scores(scorer: Scorer) -> torch.Tensor:
    """Scores [1, 2, N] of fixed features.

    Raises:
        Refusal: `scorer_not_finite`, `scorer_not_repeatable`.
    """
    shape = (1, 2, GOLDEN_TOKENS, scorer.config.features)
    features = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().float().view(shape)
    first, second = (scorer.config.network.score(scorer.parameters, features) for _ in range(2))
    if not torch.isfinite(first).all():
        raise Refusal("scorer_not_finite", "the scorer gives non-finite scores for ordinary features")
    if not torch.equal(first, second):
        raise Refusal("scorer_not_repeatable", "the scorer gives different scores for the same features")
    return first


def smoke_read(scorer: Path) -> None:
    """Read a short document with the bundled model.

    Raises:
        Refusal: `scorer_cannot_read`.
    """
    from namm_runtime.engine import Engine, Request
    from namm_runtime.model.loading import load_model

    document = scorer / "document.txt"
    document.write_text(DOCUMENT)
    request = Request(
        document=document,
        prompts=("Which pier?",),
        policy="namm",
        scorer=scorer,
        mode="budget",
        budget=BUDGET,
        interval=INTERVAL,
        positions="cache-relative",
        max_output_tokens=4,
    )
    try:
        run = Engine(load_model("bundled")).complete(request)
    except Refusal as refusal:
        raise Refusal("scorer_cannot_read", f"a short document cannot be read: {refusal.message}") from None
    finally:
        document.unlink()
    if run.usage.kept_fraction >= 1 or not run.answers:
        raise Refusal("scorer_cannot_read", "a short document was read, but no token was evicted")


def main() -> None:
    """Verify and write the verdict. A bug or a lack of memory ends the process with another exit status."""
    parser = argparse.ArgumentParser(prog="python -m namm_runtime.verify")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--end-with-parent", action="store_true", help="exit when standard input is closed")
    asked = parser.parse_args()
    if asked.end_with_parent:
        exit_at_end_of_input()
    torch.set_num_threads(1)
    verdict = verify(asked.folder, asked.out, asked.name, asked.version)
    (asked.out / "verdict.json").write_text(json.dumps(verdict) + "\n")


if __name__ == "__main__":
    main()
