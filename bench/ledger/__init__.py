"""The ledger at size: filling it, and how fast its pages, its expiry and its migration are then."""
