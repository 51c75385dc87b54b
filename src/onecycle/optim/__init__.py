"""Optimizers: how they are built, and how a policy's values get into them."""
