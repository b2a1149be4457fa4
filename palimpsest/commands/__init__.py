"""The commands of `palimpsest`, one file for each noun, and the helpers they share."""
