"""How the command line shows schedules."""

from typing import Any

from rich.table import Table


def table(*headings: str) -> Table:
    """A table without a frame."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def does(schedule: dict[str, Any]) -> str:
    """What a run of a schedule does."""
    if schedule["job"]:
        return f"{schedule['job']['task']} {schedule['job']['document_id']}"
    return f"{schedule['bulk']['job']['task']} collection {schedule['bulk']['collection']}"


def moment(utc: str | None) -> str:
    """A time of the API to the minute; empty for none."""
    return f"{utc[:16].replace('T', ' ')} UTC" if utc else ""
