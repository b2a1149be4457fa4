"""HTTP: parts of requests and answers that have nothing to do with a noun."""
