"""Jobs on a worker: claimed, run, kept by a lease, resumed from snapshots."""
