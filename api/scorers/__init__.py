"""The scorer registry over HTTP."""
