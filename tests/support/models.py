"""Looks at the models that workers have registered."""

from sqlalchemy.orm import Session

from store import workers
from store.workers import ServedModel


def find_model(session: Session, name: str, live_seconds: float) -> ServedModel | None:
    """The model of this name, or None if no worker has ever registered it."""
    return next((model for model in workers.models(session, live_seconds) if model.card.name == name), None)
