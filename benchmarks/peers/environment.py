"""The environment of the rivals: kvpress needs an older transformers than we do."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PLACE = ROOT / ".peers"  # made once; delete it to make it anew
PACKAGES = ("kvpress==0.5.5", "transformers==5.2.0", "bm25s==0.3.16")
SCRIPT = Path(__file__).parent / "kvpress_side.py"


def python(place: Path = PLACE) -> Path:
    """The environment's interpreter; makes the environment if it is not complete.

    Packages that it does not have are taken from the environment that this runs in, above all torch: both
    sides compute with the same one, and nothing large is downloaded.

    Raises:
        subprocess.CalledProcessError: with pip's output, if a package cannot be installed.
    """
    interpreter, complete = place / "bin" / "python", place / "complete.txt"
    if not complete.exists() or complete.read_text() != _made_of():
        _run(sys.executable, "-m", "venv", "--clear", str(place))
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        (own,) = _run(str(interpreter), "-c", query).splitlines()
        (Path(own) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        _run(str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "-q", *PACKAGES)
        complete.write_text(_made_of())
    return interpreter


def versions(interpreter: Path) -> dict[str, str]:
    """Versions of the packages that matter for the results."""
    names = ("kvpress", "transformers", "bm25s", "torch")
    query = f"import importlib.metadata as m; print(*[m.version(name) for name in {names}])"
    return dict(zip(names, _run(str(interpreter), "-c", query).split(), strict=True))


def _made_of() -> str:
    return "\n".join((*PACKAGES, sys.version, sysconfig.get_path("purelib"))) + "\n"


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return done.stdout
