"""Folders outside that documents are read from and bundles are written to."""
