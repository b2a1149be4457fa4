"""The served models over HTTP."""
