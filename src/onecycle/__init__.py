"""onecycle: train a PyTorch model well in a fraction of the usual epochs, with the 1cycle policy.

>>> import onecycle, torch
>>> data = onecycle.load("digits")
>>> model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=data.n_classes)
>>> learn = onecycle.Learner(model, data, verbose=False)
>>> learn.fit_one_cycle(3, 0.2).valid["accuracy"] > 0.8
True

The names are listed in ``__init__.pyi``. Each is imported when it is first used, and so is each package:
``import onecycle`` loads neither torch nor numpy.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

_HOMES = {
    name.asname or name.name: (node.module, name.name)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for name in node.names
}
_PACKAGES = sorted(module.name for module in iter_modules(__path__) if module.name != "__main__")
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


class _Package(ModuleType):
    """A package whose function `range_test` stays one, though a package inside it has the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds each package that it loads in the one around it.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home, attribute = _HOMES[name]
        value = getattr(import_module(f".{home}", __name__), attribute)
    elif name in _PACKAGES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
