"""One run, one check, one prediction as plain data."""
