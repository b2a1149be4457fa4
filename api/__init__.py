"""The HTTP layer: thin routes, schemas, authentication, problems. No torch, no SQL."""
