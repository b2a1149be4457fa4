"""Money: the ledger, bills made from it, prices, budgets and reports."""
