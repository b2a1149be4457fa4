"""The files that `palimpsest scorer push` uploads, and the name and version that they have."""

from pathlib import Path

from palimpsest.commands.common import read_json_object
from palimpsest.machine.data_directory import LocalError

SCORER, MANIFEST = "scorer.safetensors", "manifest.json"


def contents(path: Path, name: str | None, version: str | None) -> tuple[dict[str, Path], str, str]:
    """The files to upload, the name and the version. Raises LocalError."""
    if path.is_dir():
        files = {"scorer": path / SCORER, "manifest": path / MANIFEST}
        for file in files.values():
            if not file.is_file():
                raise LocalError(f"{path} is not a scorer: it has no {file.name}.")
        manifest = read_json_object(files["manifest"])
        said = manifest.get("name")
        if name is not None and said is not None and name != said:
            raise LocalError(
                f"{files['manifest']} names the scorer '{said}'; only --version can override the manifest."
            )
        named, numbered = name or said, version or manifest.get("version")
        if not named or not numbered:
            raise LocalError(f"{files['manifest']} has no name or no version: give --name and --version.")
        return files, str(named), str(numbered)
    if not path.is_file():
        raise LocalError(f"There is no file or folder {path}.")
    if path.suffix != ".pt":
        raise LocalError(f"{path} is neither a folder of {SCORER} and {MANIFEST} nor a .pt file.")
    if name is None or version is None:
        raise LocalError("A .pt file contains neither a name nor a version: give --name and --version.")
    return {"checkpoint": path}, name, version
