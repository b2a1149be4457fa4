"""Brings the database of the settings up to date."""

import sys

from migrations import SchemaLocked, upgrade
from store.settings import settings

try:
    upgrade(settings().database)
except SchemaLocked as error:
    sys.exit(str(error))
