"""PostgreSQL and Redis, run from their wheels on this machine."""
