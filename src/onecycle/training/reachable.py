"""Which modules some code computes with: those that its variables lead to, and those that it calls."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import CO_OPTIMIZED
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

# Objects that are looked at on the way to the modules, and of one container.
MOST, WIDEST = 50_000, 1_000
# Whose functions refer to nothing of a user's by the names of globals.
LIBRARIES = {"torch", *sys.stdlib_module_names}


def modules_of(parameters: Iterable[Tensor], *roots: Any) -> list[nn.Module]:
    """The modules with any of these parameters that the roots lead to; they may be functions, frames and any objects.

    The way goes from functions through their closures and the globals that they name, from objects through what they
    refer to, layer by layer, until each parameter has a module. No code of the objects runs.

    >>> model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    >>> def step(batch): return model(batch).sum()
    >>> modules_of(model[0].parameters(), step) == [model]
    True
    """
    wanted = {id(p) for p in parameters}
    missing, modules = set(wanted), list[nn.Module]()
    seen, layer = dict[int, Any](), list(roots)  # the objects themselves, so that their ids stay theirs
    while layer and missing and len(seen) < MOST:
        coming: list[Any] = []
        for thing in layer:
            if id(thing) in seen:
                continue
            seen[id(thing)] = thing
            held = wanted.intersection(tensors_of(thing)) if _is_module(thing) else None
            if held:
                modules.append(thing)
                missing -= held
            elif len(seen) + len(coming) < MOST:
                coming += _referred(thing)
        layer = coming
    return modules


def tensors_of(module: nn.Module) -> dict[int, Tensor]:
    """The module's parameters and buffers by their ids; of those that FSDP shards, the shards."""
    for part in module.modules():
        give_up_gathered(part)
    return {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}


def give_up_gathered(part: nn.Module) -> None:
    """Have FSDP give up the parameters that it gathered for a forward; it gathers them anew for the next one.

    The shards, which optimizers hold, are in their place then, and what is written to them is what is computed with.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and issubclass(type(part), fsdp.FSDPModule):
        part.reshard()  # type: ignore[operator]


def caller() -> FrameType | None:
    """The frame of the code that entered the context manager that calls this."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "contextlib":
        frame = frame.f_back
    return frame


@contextmanager
def before_first_call(take: Callable[[nn.Module], None], known: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Within the block `take` is given each module before its first call in this thread.

    A module within one that it was given, or within `known`, is not given; nor are modules whose parameters are
    replaced for the call alone (``torch.func.functional_call``). Calls inside what torch.compile has compiled are not
    seen.
    """
    thread, seen = threading.get_ident(), {id(part): part for module in known for part in module.modules()}

    def look(module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or id(module) in seen or threading.get_ident() != thread:
            return
        parts = {id(part): part for part in module.modules()}
        if all(p is None or isinstance(p, nn.Parameter) for part in parts.values() for p in part._parameters.values()):
            seen.update(parts)
            with torch.inference_mode(False), torch.no_grad():
                take(module)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)  # that it is called once more for them
        hook = register_module_forward_pre_hook(look)
        try:
            yield
        finally:
            hook.remove()


def _is_module(thing: Any) -> bool:
    """By type: asking an object for its class can run code of its own."""
    return issubclass(type(thing), nn.Module) and "_parameters" in vars(thing)


def _referred(thing: Any) -> Iterable[Any]:
    """What an object refers to; of functions and frames what they name."""
    kind = type(thing)
    if issubclass(kind, Tensor | ModuleType | str | bytes | int | float):
        return ()
    if issubclass(kind, FrameType):
        return [*_variables(thing), *_named(thing.f_code, thing.f_globals)]
    if issubclass(kind, FunctionType):
        variables = [*(thing.__closure__ or ()), thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
        return variables if _of_library(thing) else [*variables, *_named(thing.__code__, thing.__globals__)]
    if issubclass(kind, type):
        return () if _of_library(thing) else [*vars(thing).values(), *thing.__bases__]
    return gc.get_referents(thing)[:WIDEST]


def _of_library(thing: Any) -> bool:
    return str(thing.__module__).partition(".")[0] in LIBRARIES


def _variables(frame: FrameType) -> list[Any]:
    """The values of its local variables, which it does not hold for longer than without this."""
    variables = frame.f_locals
    values = list(variables.values())
    if frame.f_code.co_flags & CO_OPTIMIZED and type(variables) is dict:  # a copy that would stay on the frame
        variables.clear()
    return values


def _named(code: CodeType, namespace: dict[str, Any]) -> list[Any]:
    """What the code, and the functions defined in it, name among the globals and in the modules that it names."""
    names, codes = set[str](), [code]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    values, namespaces, entered = [], [namespace], set[str]()
    while namespaces:
        space = namespaces.pop()
        for value in [space[name] for name in names if name in space]:
            if type(value) is not ModuleType:
                values.append(value)
            elif value.__name__ not in entered and value.__name__.partition(".")[0] not in LIBRARIES:
                entered.add(value.__name__)
                namespaces.append(vars(value))
    return values
