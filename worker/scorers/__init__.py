"""Scorers on a worker: which one serves a job, and whether an upload may ever serve."""
