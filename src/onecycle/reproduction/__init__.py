"""The figures of the papers, from one command each: protocols, runs, verdicts."""
