"""Schedules, policies over them, and budgets: from progress to values. No torch."""
