"""Policies × budgets over suites of questions: marked, compared and written down."""
