"""Models from elsewhere: timm's by name, and the user's own callable, with their pretrained weights if asked for."""

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

from ..errors import ConfigError, MissingDependency, OneCycleError, did_you_mean
from .hub import absent, in_words
from .small import image_channels


def from_timm(
    name: str, *, input_shape: tuple[int, ...], classes: int, pretrained: bool = False, **options: Any
) -> nn.Module:
    """The timm model `name` with the channels of the input and as many classes; options go to timm.create_model.

    A pretrained one gets a new head, also where its own has as many classes.
    """
    timm, channels = timm_library(name), image_channels(f"timm:{name}", input_shape)
    weights = {"pretrained": True} if pretrained else {}
    try:
        model = timm.create_model(name, **{"in_chans": channels, "num_classes": classes, **weights, **options})
    except Exception as error:
        if pretrained and (said := absent(error, _download(timm, name))):
            raise ConfigError(f"the weights of timm:{name} are {said}") from error
        raise ConfigError(f"timm cannot make {name!r} with options {options}: {in_words(error)}") from error
    if pretrained and classes == model.pretrained_cfg.get("num_classes"):
        model.reset_classifier(classes)
    return model


def _download(timm: Any, name: str) -> str:
    """The command that brings the weights of a timm model to where timm looks for them."""
    known = timm.get_pretrained_cfg(name)
    repository = getattr(known, "hf_hub_id", None)
    if repository:
        return f"hf download {repository}"
    return f'python -c "import timm; timm.create_model({name!r}, pretrained=True)"'


def timm_library(name: str) -> Any:
    """The package timm, which has the model `name`.

    Raises:
        ConfigError: it has no such model.
        MissingDependency: it is not installed, or cannot be imported.
    """
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingDependency(f"model timm:{name} needs the package timm: pip install timm ({error})") from error
    except Exception as error:  # such as a torchvision built for another torch
        raise MissingDependency(
            f"model timm:{name}: the installed timm cannot be imported ({in_words(error)}); "
            "mend it with: pip install --upgrade timm torchvision"
        ) from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, n=5)
        hint = did_you_mean(name, near) + ", ..." if near else "nothing is named like it"
        raise ConfigError(f"unknown timm model {name!r}: {hint} (timm.list_models() names all {len(known)})")
    return timm


def imported_maker(name: str) -> Callable[..., nn.Module]:
    """A function that calls ``package.module:callable`` with those of input_shape and classes that it takes."""
    return partial(_call, name, found(name))


def found(name: str) -> Callable[..., Any]:
    """What ``package.module:callable`` names.

    Raises:
        ConfigError: nothing that can be called, or the module cannot be imported.
    """
    with _current_directory_importable():
        return _find(name)


def _call(
    name: str, maker: Callable[..., Any], *, input_shape: tuple[int, ...], classes: int, pretrained: bool = False,
    **options: Any,
) -> nn.Module:  # fmt: skip
    offered = {"input_shape": input_shape, "classes": classes}
    arguments = {**_accepted(maker, offered), **_of_weights(name, maker, pretrained), **options}
    try:
        with _current_directory_importable():
            model = maker(**arguments)
    except OneCycleError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ConfigError(f"model {name!r}: calling it with ({given}) failed with {in_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {name!r} must return a torch.nn.Module, it returned {type(model).__name__}")
    if getattr(maker, "pretrained_cfg", None) and not hasattr(model, "pretrained_cfg"):
        model.pretrained_cfg = dict(maker.pretrained_cfg)  # type: ignore[attr-defined]
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
            f"model {name!r}: importing {module_name} failed with {in_words(error)}; it must be installed or lie in "
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


def _of_weights(name: str, maker: Callable[..., Any], pretrained: bool) -> dict[str, bool]:
    """The argument that says whether weights are to be loaded, where a callable has one.

    One without it that has a ``pretrained_cfg`` loads them by itself.
    """
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):
        parameters = {}
    if "pretrained" in parameters:
        return {"pretrained": pretrained}
    if not pretrained or getattr(maker, "pretrained_cfg", None):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {"pretrained": True}
    raise ConfigError(
        f"model {name!r} has no pretrained weights: it takes no argument pretrained, and has no attribute "
        "pretrained_cfg. Leave out pretrained, or give it one of them"
    )


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
