"""Attention over a bounded cache, and the signals that policies take from it."""
