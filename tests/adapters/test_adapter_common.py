"""A host that is missing, too old or broken is told with the line that installs it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from onecycle.adapters.common import host
from onecycle.errors import MissingDependency


def test_missing_old_and_broken():
    with pytest.raises(MissingDependency, match=r'no-such-host is not installed: pip install "no-such-host>=1\.0"'):
        host("no_such_host", "no-such-host", "1.0")
    with pytest.raises(
        MissingDependency, match=r'torch 99 or newer is needed; .* is installed: pip install "torch>=99"'
    ):
        host("torch", "torch", "99")
    with pytest.raises(MissingDependency, match=r"torch .* does not import: No module named 'torch.no_such_part'"):
        host("torch.no_such_part", "torch", "2.6")


@pytest.mark.parametrize("name", ["keras", "fastai", "lightning", "skorch", "timm"])
def test_an_adapter_without_its_host(name):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingDependency, match=rf'{name} is not installed: pip install "{name}>='):
        import_module(f"onecycle.adapters.{name}")
