"""Every error that onecycle raises on purpose.

::

    OneCycleError
    |-- ConfigError (ValueError)         an argument, an option, a schedule, a model or data-set name
    |-- DataError (ValueError)           what is in the data: files, labels, shapes, values
    |-- CheckpointError                  a checkpoint or run directory: damaged, foreign, holding another run
    |-- TrainingError (RuntimeError)     while training
    |   |-- NonFiniteLoss                the loss became NaN or infinite
    |   `-- RankError                    another rank failed, or does not answer
    |-- ExportError                      a model that cannot be exported, or that predicts something else then
    `-- MissingDependency (ImportError)  an optional package that is not installed

    Interrupted (KeyboardInterrupt)      Ctrl-C or SIGTERM, after the current update and its checkpoint
    StopTraining                         raised by an observer to end a fit well; it never leaves `Learner.fit`

A message says what was received, what is allowed and how to mend it. The command line prints it without a
traceback and exits with code 2; ``--debug`` shows the traceback. What is no error, and is to be known, is a warning at
the line of the user's own program.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from types import FrameType

# Packages whose lines no user wrote: a warning is about the line that called into them.
_PASSED_OVER = {
    *("onecycle", "torch", "transformers", "accelerate", "lightning", "pytorch_lightning", "lightning_fabric"),
    *("ignite", "skorch", "fastai", "fastcore", "timm", "keras", "contextlib"),
}


class OneCycleError(Exception):
    """Base of every error that onecycle raises on purpose."""


class ConfigError(OneCycleError, ValueError):
    """An argument, an option or a name that cannot be used."""


class DataError(OneCycleError, ValueError):
    """Something in the data: a file, a label, a shape or a value."""


class CheckpointError(OneCycleError):
    """A checkpoint or a run directory that cannot be used."""


class TrainingError(OneCycleError, RuntimeError):
    """Training cannot go on."""


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite; `step` and `lr` say where."""

    def __init__(self, message: str, *, step: int, lr: float):
        super().__init__(message)
        self.step = step
        self.lr = lr


class RankError(TrainingError):
    """Another rank failed or does not answer, so that this one cannot go on.

    `of` is its number, where it is known, and `said` its error, where it told of one.
    """

    def __init__(self, message: str, *, of: int | None = None, said: str | None = None):
        super().__init__(message)
        self.of = of
        self.said = said


class ExportError(OneCycleError):
    """A model that cannot be brought to another format, or predicts something else there."""


class MissingDependency(OneCycleError, ImportError):
    """An optional package is needed and is not installed."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after a whole update; `signal` is its number."""

    def __init__(self, message: str, *, signal: int):
        super().__init__(message)
        self.signal = signal


class StopTraining(Exception):
    """Raised by an observer of a fit to end it after the update under way: the fit measures, saves and returns."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, then all of them.

    >>> did_you_mean("resnet65", ["mlp", "resnet56"])
    'did you mean resnet56? Known: mlp, resnet56'
    """
    known = sorted(known)
    near = nearest(name, known)
    return (f"did you mean {near}? " if near else "") + "Known: " + ", ".join(known)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, whatever their capitals; None where none is like it."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return lower[near[0]] if near else None


def users_frame() -> FrameType:
    """The innermost call from a line that is neither of onecycle, nor of torch or another trainer."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_OVER:
        frame = frame.f_back
    return frame


def warn(message: str) -> None:
    """Warn at the line of `users_frame`, as `warnings.warn` does: once for a line, unless a filter says otherwise."""
    frame = users_frame()
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )
