"""The part of the client for many documents: collections, bulk jobs and templates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from palimpsest_client.fields import drop_none


class BulkCalls:
    """Methods of `palimpsest_client.Client`; they raise the same errors as its others."""

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _save(self, path: str, target: Path) -> None:
        raise NotImplementedError

    def collections(self, **page: Any) -> dict[str, Any]:
        """A page of collections, ordered by name."""
        return self._ask("GET", "/v1/collections", params=drop_none(page))

    def collection(self, id_or_name: str) -> dict[str, Any]:
        """A collection. Raises ApiError not_found."""
        return self._ask("GET", _of("collections", id_or_name))

    def create_collection(
        self, name: str, source: str | None = None, glob: str | None = None
    ) -> dict[str, Any]:
        """Create a collection. Raises ApiError collection_exists, source_not_allowed, source_invalid."""
        body = drop_none({"name": name, "source": source, "glob": glob})
        return self._ask("POST", "/v1/collections", json=body)

    def refresh_collection(self, id_or_name: str) -> dict[str, Any]:
        """Make the service read the source now."""
        return self._ask("POST", _of("collections", id_or_name, "refresh"))

    def delete_collection(self, id_or_name: str) -> None:
        """Delete a collection. Raises ApiError collection_in_use."""
        self._ask("DELETE", _of("collections", id_or_name))

    def collection_documents(self, id_or_name: str, *, deleted: bool = False) -> Iterator[dict[str, Any]]:
        """All documents of a collection, ordered by path; fetches page after page."""
        asked = {"deleted": deleted, "limit": 1000}
        yield from self._rows(_of("collections", id_or_name, "documents"), asked)

    def put_in_collection(self, id_or_name: str, path: str, document_id: str) -> dict[str, Any]:
        """Add the document to the collection under `path`, or replace the one there."""
        body = {"documents": [{"document_id": document_id, "path": path}]}
        return self._ask("POST", _of("collections", id_or_name, "documents"), json=body)

    def put_unreadable(self, id_or_name: str, path: str, code: str, message: str) -> dict[str, Any]:
        """Record that the file under `path` could not be read."""
        body = {"documents": [{"path": path, "error": {"code": code, "message": message[:500]}}]}
        return self._ask("POST", _of("collections", id_or_name, "documents"), json=body)

    def take_from_collection(self, id_or_name: str, path: str) -> None:
        """Remove the document under `path` from the collection."""
        self._ask("DELETE", _of("collections", id_or_name, "documents"), params={"path": path})

    def begin_bulk(self, *, idempotency_key: str | None = None, **work: Any) -> dict[str, Any]:
        """Start a bulk job with the fields of POST /v1/bulk; fields that are None are omitted."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._ask("POST", "/v1/bulk", json=drop_none(work), headers=headers)

    def bulk(self, bulk_id: str) -> dict[str, Any]:
        """A bulk job and its progress."""
        return self._ask("GET", _of("bulk", bulk_id))

    def bulks(self, **filters: Any) -> dict[str, Any]:
        """A page of bulk jobs, newest first."""
        return self._ask("GET", "/v1/bulk", params=drop_none(filters))

    def bulk_documents(self, bulk_id: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """All documents of a bulk job, or those in a state; fetches page after page."""
        yield from self._rows(_of("bulk", bulk_id, "documents"), drop_none({"state": state, "limit": 200}))

    def cancel_bulk(self, bulk_id: str) -> dict[str, Any]:
        """Cancel the documents that have not ended."""
        return self._ask("POST", _of("bulk", bulk_id, "cancel"))

    def retry_bulk(self, bulk_id: str) -> dict[str, Any]:
        """Retry the documents that did not succeed. Raises ApiError not_retryable."""
        return self._ask("POST", _of("bulk", bulk_id, "retry"))

    def fetch_bundle(self, bulk_id: str, name: str, target: Path) -> None:
        """Save a file of the bundle atomically. Raises ApiError bundle_not_ready, OSError."""
        self._save(_of("bulk", bulk_id, "bundle", name), target)

    def templates(self) -> dict[str, Any]:
        """Every version of every template."""
        return self._ask("GET", "/v1/templates")

    def add_template(self, name: str, prompt: str, *, each_point: bool) -> dict[str, Any]:
        """Add a version of a template. Raises ApiError template_invalid."""
        body = {"prompt": prompt, "each_point": each_point}
        return self._ask("POST", _of("templates", name), json=body)

    def _rows(self, path: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = self._ask("GET", path, params=drop_none({**asked, "cursor": cursor}))
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


def _of(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
