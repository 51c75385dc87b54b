"""Data sets: found by name or path, decoded once, checked, and split with a seed."""

from .contact_sheet import contact_sheet
from .inputs import read_inputs
from .sources import NAMES, describe, find, load, loading_once
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
