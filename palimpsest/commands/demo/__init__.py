"""The steps of `palimpsest demo`: a business document read three ways, and a million tokens."""
