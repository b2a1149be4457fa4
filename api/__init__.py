"""The HTTP face: thin routes, schemas, authentication, problems. No torch, no SQL."""
