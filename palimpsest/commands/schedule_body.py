"""The body of POST /v1/schedules: the content of a file, overridden by command-line options."""

from typing import Any

import typer

Fields = dict[str, Any]
_TARGETS = ("document_id", "collection", "source", "glob")
_TASK = ("task", "questions", "prompt")
_OF_SUMMARIES = ("template", "points", "words")


def override(body: Fields, *, timing: Fields, target: Fields, work: Fields, run: Fields) -> Fields:
    """The body with the fields of options replaced; all other fields stay as they are.

    Args:
        timing: fields of the schedule itself, such as `cron`.
        target: `document_id`, or `collection` or `source` with its `glob`; it decides whether a run is a
            job or a bulk job. A target of the other kind replaces that whole section.
        work: what is asked of a document. A new `task` drops the previous questions or prompt.
        run: other fields of the job or bulk job, such as `deadline_seconds`.

    Raises typer.BadParameter if a required part is missing.
    """
    kind = _kind(body, target)
    section = _object(body, kind)
    if target.keys() - {"glob"}:
        section = {name: value for name, value in section.items() if name not in _TARGETS}
    section |= target
    if kind == "bulk":
        section["job"] = _work(_object(section, "job"), work)
    else:
        section = _work(section, work)
    rest = {name: value for name, value in body.items() if name not in ("job", "bulk")}
    found = {**rest, **timing, kind: section | run}
    for name in ("name", "cron"):
        if not found.get(name):
            raise typer.BadParameter(f"give {name.upper()}, or a --from file with '{name}'")
    return found


def _kind(body: Fields, target: Fields) -> str:
    if "document_id" in target:
        return "job"
    if "collection" in target or "source" in target or body.get("bulk"):
        return "bulk"
    if body.get("job"):
        return "job"
    raise typer.BadParameter("give one of --file, --document, --collection, --source and --from")


def _object(body: Fields, name: str) -> Fields:
    found = body.get(name) or {}
    if not isinstance(found, dict):
        raise typer.BadParameter(f"'{name}' in the --from file must be an object")
    return dict(found)


def _work(before: Fields, work: Fields) -> Fields:
    if "task" not in work and not before.keys() & set(_TASK):
        raise typer.BadParameter("give either --prompt, or --ask and/or --summarize")
    if "task" in work:
        dropped = _TASK if work["task"] == "summarize" else (*_TASK, *_OF_SUMMARIES)
        before = {name: value for name, value in before.items() if name not in dropped}
    if "cache_budget" in work:
        before = {name: value for name, value in before.items() if name != "budget"}  # its former name
    return before | work
