"""Looking into a result: what a model gets wrong, how sure it is and whether it may be, and what it goes by."""
