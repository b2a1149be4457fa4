"""Readers for the JSONL files of public benchmarks and for the user's own files."""

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.reader import read

__all__ = ["Question", "read"]
