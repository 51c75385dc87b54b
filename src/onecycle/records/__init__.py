"""What is on disk, and what is kept of a run: one reader and one writer for each kind of file."""
