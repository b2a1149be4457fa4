"""Evaluate policies × budgets on suites of questions, and report the results."""
