"""Which peak to train with: short trial runs and the decisions between them."""
