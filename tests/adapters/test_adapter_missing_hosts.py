"""Adapters whose hosts are not installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from onecycle.errors import MissingDependency


@pytest.mark.parametrize("name", ["lightning"])
def test_the_import_says_what_to_install(name):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(MissingDependency, match=f'{name} is not installed: pip install "{name}>='):
        import_module(f"onecycle.adapters.{name}")
