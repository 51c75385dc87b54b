"""The learning rate range test: a sweep that leaves no trace, the peak and the verdict read from it."""
