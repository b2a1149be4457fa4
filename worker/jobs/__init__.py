"""Jobs on a worker: claimed, run, kept alive by a lease, resumed from snapshots."""
