"""What several adapters need: the import of a host, with the line that installs it."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import MissingDependency


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


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release.split("+")[0])[:3])
