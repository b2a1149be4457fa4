"""The runtime needs nothing that only the service needs."""

import subprocess
import sys
import tomllib

from tests.support import REPOSITORY

ROOT = REPOSITORY

READ = """
import sys
from namm_runtime.cli import app
arguments = ["read", {document!r}, "--ask", "Invoice 4821 total:", "--policy", "keydiff", "--json"]
app(arguments, standalone_mode=False)
present = {{name.split(".")[0] for name in sys.modules}}
sys.exit("loaded: " + ", ".join(sorted(present & {service!r})) if present & {service!r} else 0)
"""


def test_it_reads_and_answers_without_loading_a_dependency_of_the_service(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {line.split(">")[0].split("[")[0] for extra in ("service", "embedded") for line in extras[extra]}
    brought = {
        "pydantic",
        "fsspec",
        "psutil",
        "jinja2",
        "markupsafe",
    }  # by typer, huggingface_hub, transformers and torch
    service = {name.replace("-", "_") for name in names} - brought
    assert {"celery", "sqlalchemy", "fastapi", "psycopg", "redis", "uvicorn"} <= service
    document = tmp_path / "document.txt"
    document.write_text("\nInvoice 4821 total: 9310.\nInvoice 4821 balance: 417.\n")
    program = READ.format(service=service, document=str(document))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "9310" in done.stdout
