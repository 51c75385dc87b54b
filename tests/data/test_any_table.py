"""Tables as they may be, made at random with known contents: exactly those are read, or it is an error."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from table_cases import run


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_what_is_read_is_what_is_there(seed):
    with tempfile.TemporaryDirectory() as place:
        outcome = run(seed, Path(place))
    assert outcome == "read"
