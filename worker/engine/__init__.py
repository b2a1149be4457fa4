"""The engine that a worker runs, behind an interface that does not load torch."""

from worker.engine.interface import ScorerPin, Served
from worker.engine.runtime import load

__all__ = ["ScorerPin", "Served", "load"]
