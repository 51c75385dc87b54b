"""Fair comparisons of training policies: many runs, and what can be said about them."""
