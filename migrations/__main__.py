"""Brings the database of the settings up to date."""

from migrations import upgrade
from store.settings import settings

upgrade(settings().database)
