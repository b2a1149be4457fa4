"""Usage, costs and savings over HTTP."""
