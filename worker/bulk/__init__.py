"""Bulk jobs: the conductor, and what it does in each state."""
