"""The whole service on one machine: its processes and its data directory."""
