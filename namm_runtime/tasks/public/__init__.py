"""Readers for the JSONL files of public benchmarks, and for anybody's own."""

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.reader import read

__all__ = ["Question", "read"]
