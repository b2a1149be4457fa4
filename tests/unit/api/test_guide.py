"""docs/how-to/use-the-api.md names every route, field and code there is, and none that is not."""

import re
from collections.abc import Iterator

from api.app import create_app
from api.jobs.result_schemas import PointOut
from api.jobs.schemas import JobCreate
from api.problems import status_of
from palimpsest.report.warnings import MEANINGS
from store.errors import StoreError
from store.settings import Settings
from tests.support import REPOSITORY

GUIDE = (REPOSITORY / "docs" / "how-to" / "use-the-api.md").read_text()
STORE = "\n".join(path.read_text() for path in sorted((REPOSITORY / "store").rglob("*.py")))
SOURCE = "\n".join(path.read_text() for path in sorted((REPOSITORY / "api").rglob("*.py")))


# Met by workers and the command line only.
NOT_OVER_HTTP = {"bad_price_book", "source_away", "source_too_large"}


def store_errors(base: type[StoreError]) -> Iterator[type[StoreError]]:
    """The errors with a code of their own that the API answers with, once it is imported."""
    for error in base.__subclasses__():
        if error.__module__.startswith("store.") and status_of(error) and error.code != StoreError.code:
            yield error
        yield from store_errors(error)


def test_every_code_is_listed_under_its_status() -> None:
    listed = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| (.+) \|$", GUIDE, re.MULTILINE)
        for code in re.findall(r"`([a-z_]+)`", codes)
    }
    raised = {(int(s), code) for s, code in re.findall(r'Problem\(\s*(\d{3}),\s*"([a-z_]+)"', SOURCE)}
    raised |= {(int(s), code) for s, code in re.findall(r'^ +(\d{3}): \("([a-z_]+)", ', SOURCE, re.MULTILINE)}
    raised |= {(401, code) for code in re.findall(r'_unauthorized\(\s*"([a-z_]+)"', SOURCE)}
    raised |= {(422, code) for code in re.findall(r'Refused\(\s*"([a-z_]+)"', STORE)}
    raised |= {(status_of(error), error.code) for error in store_errors(StoreError)}
    assert listed == {(status, code) for status, code in raised if code not in NOT_OVER_HTTP}


def test_every_route_is_listed() -> None:
    nowhere = {"DATABASE_URL": "postgresql://nowhere/none", "data_dir": "/nonexistent"}
    paths = create_app(Settings.model_validate(nowhere)).openapi()["paths"]
    routes = {
        f"{method.upper()} {re.sub(r'{.*?}', '{id}', path)}" for path in paths for method in paths[path]
    }
    assert set(re.findall(r"`((?:GET|POST|DELETE|PUT) [^`?]+)`", GUIDE)) == routes


def test_every_field_of_a_job_is_listed() -> None:
    table = GUIDE.split("| Field | |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] + line.split("|")[2] for line in table.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(JobCreate.model_fields) <= named


def test_every_field_of_a_key_point_is_listed() -> None:
    rows = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| …… ")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(PointOut.model_fields)


def test_every_warning_is_listed() -> None:
    table = GUIDE.split("| Warning | |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(MEANINGS)
