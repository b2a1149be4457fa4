"""Names by which the processes of the worker know each other's things."""

DRAIN = "drain"  # the Celery tasks
WARM = "warm"
EXAMINE = "examine"
VERIFY = "verify"
WORKER_ID = "PALIMPSEST_WORKER_ID"  # environment variable from a worker's parent to its children
