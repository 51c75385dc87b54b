"""Experiment trackers: what a training records, sent to the tracker that somebody has."""
