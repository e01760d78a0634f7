"""How a dataset is made of the ledger: filters, redaction, duplicates, screens, choice, and its files."""
