"""Schedules and policies: what each hyper-parameter is at each moment of a run."""

from . import budget, piecewise, policy, presets

__all__ = ["budget", "piecewise", "policy", "presets"]
