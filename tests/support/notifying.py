"""The notifier for tests: everything that is due is sent before a test goes on."""

from store.database import Database
from store.settings import Settings
from worker.webhooks.notifier import Notifier
from worker.webhooks.sender import Sender


def notify_once(database: Database, config: Settings) -> int:
    """Fans out and sends everything that is due, and waits for it; gives how many attempts were made."""
    notifier, attempts = Notifier(database, Sender(config)), 0
    try:
        while begun := notifier.step():
            attempts += begun
            notifier.wait_until_idle()
        return attempts
    finally:
        notifier.close()
