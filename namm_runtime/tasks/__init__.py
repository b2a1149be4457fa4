"""Synthetic documents with planted facts, for training and testing the bundled models."""

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
