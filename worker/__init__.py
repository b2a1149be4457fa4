"""The workers: claim jobs, run them in the engine, renew leases, write results; and the loops around them."""
