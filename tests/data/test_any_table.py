"""Tables, lists of images and arrays as they may be, made at random with known contents: exactly those are read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import array_cases
import image_list_cases
import table_cases
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 10**6)


def outcome(cases, seed: int) -> str:
    with tempfile.TemporaryDirectory() as place:
        return cases.run(seed, Path(place))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_what_is_read_of_a_table_is_what_is_there(seed):
    """`python bench/fuzz.py --readers tables --cases 1 --seed SEED` reads one again."""
    assert not outcome(table_cases, seed).startswith("fault")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_what_is_read_of_a_list_of_images_is_what_is_there(seed):
    assert outcome(image_list_cases, seed) == "read"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_what_is_read_of_arrays_is_what_is_there(seed):
    """Or it is refused, where the targets are of a kind that may be."""
    assert not outcome(array_cases, seed).startswith("fault")
