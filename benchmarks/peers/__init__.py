"""Rivals beside our policies on the same documents and questions: kvpress, and passages found by BM25."""
