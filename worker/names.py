"""Names that the processes of a worker share."""

# The Celery tasks. These names are on the wire: a queue may hold messages of an earlier version, and a relay
# of another version may send to this worker. They stay as they are, whatever the functions are called.
RUN_JOBS = "drain"
WARM_UP = "warm"
RUN_EVOLUTION_TASK = "examine"
VERIFY_SCORERS = "verify"

WORKER_ID = "PALIMPSEST_WORKER_ID"  # environment variable from a worker's parent to its children
