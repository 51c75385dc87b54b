"""Models from elsewhere: timm's by name, and the user's own callable."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from ..errors import ConfigError, MissingDependency, did_you_mean
from .small import image_channels


def from_timm(name: str, *, input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """The timm model `name` with the channels of the input and as many classes; options go to timm.create_model."""
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingDependency(f"model timm:{name} needs the package timm: pip install timm ({error})") from error
    except Exception as error:  # such as a torchvision built for another torch
        raise MissingDependency(
            f"model timm:{name}: the installed timm cannot be imported ({_in_words(error)}); "
            "mend it with: pip install --upgrade timm torchvision"
        ) from error
    channels = image_channels(f"timm:{name}", input_shape)
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, n=5)
        hint = did_you_mean(name, near) + ", ..." if near else "nothing is named like it"
        raise ConfigError(f"unknown timm model {name!r}: {hint} (timm.list_models() names all {len(known)})")
    try:
        return timm.create_model(name, **{"in_chans": channels, "num_classes": classes, **options})
    except Exception as error:
        raise ConfigError(f"timm cannot make {name!r} with options {options}: {_in_words(error)}") from error


def imported_maker(name: str) -> Callable[..., nn.Module]:
    """A function that calls ``package.module:callable`` with those of input_shape and classes that it takes."""
    with _current_directory_importable():
        return partial(_call, name, _find(name))


def _call(
    name: str, maker: Callable[..., Any], *, input_shape: tuple[int, ...], classes: int, **options: Any
) -> nn.Module:
    arguments = {**_accepted(maker, {"input_shape": input_shape, "classes": classes}), **options}
    try:
        with _current_directory_importable():
            model = maker(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ConfigError(f"model {name!r}: calling it with ({given}) failed with {_in_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r} must return a torch.nn.Module, it returned {type(model).__name__}")
    return model


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ConfigError(f"a model of your own is named package.module:callable, got {name!r}")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may well exit when it is imported
        raise ConfigError(
            f"model {name!r}: importing {module_name} failed with {_in_words(error)}; it must be installed or lie in "
            f"the current directory, {os.getcwd()}"
        ) from error
    maker = getattr(module, attribute, None)
    if isinstance(maker, nn.Module):
        raise ConfigError(f"model {name!r} is a model already; name the class or function that makes it")
    if not callable(maker):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"model {name!r}: {module_name} has no callable {attribute!r}: {did_you_mean(attribute, callables)}"
        )
    return maker


def _accepted(maker: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    if getattr(maker, "__init__", None) is nn.Module.__init__:
        return {}  # its signature says **kwargs, yet it takes none
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have none
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered
    by_name = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {key: value for key, value in offered.items() if key in by_name}


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """The installed command does not look for modules in the current directory, as ``python -m`` does.

    No byte code is written meanwhile: a user's folder stays as it was.
    """
    before, written = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, os.getcwd())
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, written


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
