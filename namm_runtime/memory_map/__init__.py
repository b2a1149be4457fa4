"""A page that shows which parts of a document are still in the cache after reading it."""
