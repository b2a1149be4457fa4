"""Tells the user of `palimpsest up` if no worker can load the model."""

import threading

import httpx

from palimpsest.machine.child_processes import Say
from palimpsest_client import ApiError, Client

POLL_SECONDS = 1.0


class ModelWatch:
    """A thread that waits until a worker has loaded the model, and reports why none could."""

    def __init__(self, url: str, key: str, say: Say) -> None:
        self._url, self._key, self._say = url, key, say
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-watch", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()

    def _run(self) -> None:
        said: set[str] = set()
        with Client(self._url, self._key) as client:
            while not self._stopping.wait(POLL_SECONDS):
                try:
                    live = [model for model in client.models()["data"] if model["workers_live"]]
                except (ApiError, httpx.TransportError):
                    continue
                if any(model["loaded"] for model in live):
                    return
                for error in (error for model in live for error in model["errors"]):
                    if error not in said:
                        said.add(error)
                        self._say(f"No worker could load the model: {error}")
