"""What several adapters need: the import of a host, with the line that installs it, and a position that was saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..checks import is_whole
from ..errors import CheckpointError, MissingDependency


def host(module: str, package: str, least: str) -> Any:
    """Import `module` of the installed `package`, whose version is `least` or newer.

    Raises:
        MissingDependency: it is not installed, too old, or does not import; the message has the line that installs it.

    >>> host("torch.optim", "torch", "2.6").__name__
    'torch.optim'
    >>> host("torch", "torch", "99.0")
    Traceback (most recent call last):
    onecycle.errors.MissingDependency: torch 99.0 or newer is needed; 2... is installed: pip install "torch>=99.0"
    """
    install = f'pip install "{package}>={least}"'
    try:
        installed = version(package)
    except PackageNotFoundError as error:
        raise MissingDependency(f"{package} is not installed: {install}") from error
    if _numbers(installed) < _numbers(least):
        raise MissingDependency(f"{package} {least} or newer is needed; {installed} is installed: {install}")
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{package} {installed} does not import: {error}") from error


def saved_position(state: Any, who: str) -> int:
    """The updates applied that `who` saved.

    Raises:
        CheckpointError: it saved none.

    >>> saved_position({"position": 3}, "a scheduler")
    3
    """
    applied = state.get("position") if isinstance(state, Mapping) else None
    if applied is None or not is_whole(applied, 0):
        raise CheckpointError(f'{who} is saved as {{"position": updates applied}}; received {state!r}')
    return int(applied)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release.split("+")[0])[:3])
