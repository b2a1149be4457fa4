"""The Celery side: claims jobs, drives the engine, heartbeats, finishes; and the loops around it."""
