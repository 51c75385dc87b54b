"""Reports from recorded rows and files alone: nothing here needs torch or a model."""
