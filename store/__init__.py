"""The one place that talks SQL, and the blobs beside it."""
