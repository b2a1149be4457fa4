"""The commands of `palimpsest`, one file for each noun."""
