"""What the tests against real hosts share: a host's warnings are its own, those of this library are errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

HERE = Path(__file__).parent
ADAPTERS = HERE.parents[1] / "src" / "onecycle" / "adapters"  # whose doctests need their hosts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {HERE, ADAPTERS} & set(item.path.parents):
            item.add_marker(pytest.mark.hosts)
            item.add_marker(pytest.mark.filterwarnings("default", "error:::onecycle"))
