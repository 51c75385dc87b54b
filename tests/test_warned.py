"""Warnings are about the line of the user's program."""

from __future__ import annotations

import warnings

import pytest

from onecycle.errors import warn


@pytest.mark.parametrize("module", ["torch.optim.optimizer", "transformers.trainer", "onecycle.adapters.torch"])
def test_a_warning_is_about_the_line_that_called_into_a_host(module):
    """Frames of hosts, whatever their depth, are passed over; one line warns once of one thing."""
    host = {"__name__": module, "warn": warn}
    exec("def inside():\n    warn('the end is past')\ndef outside():\n    inside()", host)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            host["outside"]()
        host["outside"]()
    assert [w.filename for w in caught] == [__file__] * 2
    assert caught[1].lineno == caught[0].lineno + 1


def test_a_module_whose_name_begins_as_a_host_s_is_the_user_s():
    mine = {"__name__": "torch_of_mine", "warn": warn}
    with pytest.warns(UserWarning, match="the end is past") as caught:
        exec(compile("warn('the end is past')", "mine.py", "exec"), mine)
    assert caught[0].filename == "mine.py"
