"""A call in a thread of its own."""

from __future__ import annotations

import pytest

from onecycle.records.beside import Writing


def test_an_error_of_the_thread_is_raised_where_it_is_waited_for():
    with pytest.raises(ZeroDivisionError):
        Writing(lambda: 1 // 0).end()
    assert Writing(lambda: None).end() >= 0
