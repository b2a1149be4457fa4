"""Text out of files: PDF, Office, mail and others. Imports no other room."""
