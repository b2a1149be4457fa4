"""The data layer: all SQL, and the blob store."""
