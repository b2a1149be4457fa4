"""The part of the REST API that is about many documents: collections, bulk jobs, templates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from palimpsest_client.fields import drop_none


class BulkCalls:
    """Methods of `palimpsest_client.Client`; they raise what its others do."""

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _save(self, path: str, target: Path) -> None:
        raise NotImplementedError

    def collections(self, **page: Any) -> dict[str, Any]:
        """A page of collections, by name."""
        return self._ask("GET", "/v1/collections", params=drop_none(page))

    def collection(self, id_or_name: str) -> dict[str, Any]:
        """A collection. Raises ApiError not_found."""
        return self._ask("GET", _of("collections", id_or_name))

    def create_collection(
        self, name: str, source: str | None = None, glob: str | None = None
    ) -> dict[str, Any]:
        """A new collection. Raises ApiError collection_exists, source_not_allowed, source_invalid."""
        body = drop_none({"name": name, "source": source, "glob": glob})
        return self._ask("POST", "/v1/collections", json=body)

    def refresh_collection(self, id_or_name: str) -> dict[str, Any]:
        """Have the service look at the source now."""
        return self._ask("POST", _of("collections", id_or_name, "refresh"))

    def delete_collection(self, id_or_name: str) -> None:
        """Forget a collection. Raises ApiError collection_in_use."""
        self._ask("DELETE", _of("collections", id_or_name))

    def collection_documents(self, id_or_name: str, *, deleted: bool = False) -> Iterator[dict[str, Any]]:
        """All documents of a collection, by path, page after page."""
        asked = {"deleted": deleted, "limit": 1000}
        yield from self._rows(_of("collections", id_or_name, "documents"), asked)

    def put_in_collection(self, id_or_name: str, path: str, document_id: str) -> dict[str, Any]:
        """The document is in the collection under `path` from now on."""
        body = {"documents": [{"document_id": document_id, "path": path}]}
        return self._ask("POST", _of("collections", id_or_name, "documents"), json=body)

    def put_unreadable(self, id_or_name: str, path: str, code: str, message: str) -> dict[str, Any]:
        """The file under `path` could not be read."""
        body = {"documents": [{"path": path, "error": {"code": code, "message": message[:500]}}]}
        return self._ask("POST", _of("collections", id_or_name, "documents"), json=body)

    def take_from_collection(self, id_or_name: str, path: str) -> None:
        """Nothing is in the collection under `path` any more."""
        self._ask("DELETE", _of("collections", id_or_name, "documents"), params={"path": path})

    def begin_bulk(self, *, idempotency_key: str | None = None, **work: Any) -> dict[str, Any]:
        """Begin a bulk job; the fields are those of POST /v1/bulk, and those that are None are left out."""
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self._ask("POST", "/v1/bulk", json=drop_none(work), headers=headers)

    def bulk(self, bulk_id: str) -> dict[str, Any]:
        """A bulk job and where it stands."""
        return self._ask("GET", _of("bulk", bulk_id))

    def bulks(self, **filters: Any) -> dict[str, Any]:
        """A page of bulk jobs, newest first."""
        return self._ask("GET", "/v1/bulk", params=drop_none(filters))

    def bulk_documents(self, bulk_id: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """All documents of a bulk job, or those in a state, page after page."""
        yield from self._rows(_of("bulk", bulk_id, "documents"), drop_none({"state": state, "limit": 200}))

    def cancel_bulk(self, bulk_id: str) -> dict[str, Any]:
        """Cancel what has not ended."""
        return self._ask("POST", _of("bulk", bulk_id, "cancel"))

    def retry_bulk(self, bulk_id: str) -> dict[str, Any]:
        """Try again what did not succeed. Raises ApiError not_retryable."""
        return self._ask("POST", _of("bulk", bulk_id, "retry"))

    def fetch_bundle(self, bulk_id: str, name: str, target: Path) -> None:
        """Save a file of the bundle, whole or not at all. Raises ApiError bundle_not_ready, OSError."""
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
