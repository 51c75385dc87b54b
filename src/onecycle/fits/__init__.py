"""One fit of a learner: what it is to do, and how it goes from there to its result."""
