"""The user's own files: `{input, context, answers, task}`, optionally `metric` and `max_output_tokens`."""

from pathlib import Path

from namm_runtime.tasks.public.question import METRICS, Question
from namm_runtime.tasks.public.record import BadRecord, Record


def question(record: Record, path: Path) -> Question:
    metric = record.text("metric", "f1")
    if metric not in METRICS:
        raise BadRecord(f"unknown metric '{metric}'; choose one of {', '.join(METRICS)}")
    limit = record.fields.get("max_output_tokens")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadRecord("the field 'max_output_tokens' must be a positive integer")
    return Question(
        task=record.text("task", path.stem),
        context=record.text("context"),
        input=record.text("input"),
        answers=record.texts("answers"),
        metric=metric,
        classes=record.texts("all_classes", empty=True) if record.fields.get("all_classes") else (),
        max_output_tokens=limit,
    )
