"""Scorers on a worker: which version serves a job, verification of uploads, shadow runs."""
