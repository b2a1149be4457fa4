"""Documents and the text in them."""

from store.documents.repository import (
    blob_key_of,
    create,
    get,
    named,
    new_document_id,
    of_job,
)

__all__ = ["blob_key_of", "create", "get", "named", "new_document_id", "of_job"]
