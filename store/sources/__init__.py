"""External folders that documents are read from and bundles are written to."""
