"""Data sets: found by name or path, decoded once, checked, and split with a seed."""

from .contact_sheet import contact_sheet
from .sources import NAMES, describe, find, load, loading_once, read_inputs
from .splits import Data, Split, Stream

__all__ = [
    "NAMES",
    "Data",
    "Split",
    "Stream",
    "contact_sheet",
    "describe",
    "find",
    "load",
    "loading_once",
    "read_inputs",
]
