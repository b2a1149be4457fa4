"""The scorer registry: versions, which one serves whom, and how a canary fares."""
