"""Synthetic business documents with planted facts: the task that trains and tests the bundled model."""

from namm_runtime.tasks.documents import Document, FillerKind, Planted, make_document
from namm_runtime.tasks.facts import Fact, sample_facts
from namm_runtime.tasks.words import SPLITS, Split

__all__ = [
    "SPLITS",
    "Document",
    "Fact",
    "FillerKind",
    "Planted",
    "Split",
    "make_document",
    "sample_facts",
]
