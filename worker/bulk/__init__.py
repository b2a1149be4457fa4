"""Bulk jobs: the conductor and what it does at each state."""
