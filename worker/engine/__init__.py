"""The engine a worker runs, behind an interface that loads no torch."""

from worker.engine.interface import ScorerPin, Served
from worker.engine.runtime import load

__all__ = ["ScorerPin", "Served", "load"]
