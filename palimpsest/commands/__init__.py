"""Commands of `palimpsest`, a file a noun."""
