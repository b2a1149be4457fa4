"""What the tests share: stand-ins, small models, receivers, and where the repository is."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
