"""The settings of a learner's batches."""

from .batches import Feed, feed_for

__all__ = ["Feed", "feed_for"]
