"""Whether the service answers and is ready."""
