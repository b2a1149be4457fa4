"""Prompt templates over HTTP."""
