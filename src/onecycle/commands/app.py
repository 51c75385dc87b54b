"""The command: the public functions, from the shell."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from cyclopts import App, CycloptsError

from ..errors import ConfigError, Interrupted, OneCycleError
from ..text import folded
from ..training.launched import accelerate_started_one, is_main_rank, world_asked
from .printing import degraded_output

# What all commands take: see `_as_loud`, and the traceback of an error.
OF_ALL = ("--quiet", "--verbose", "--debug")
# Each is a function in the module of its name, which is imported where it is asked for.
COMMANDS = (
    "init", "check", "profile", "train", "search", "predict", "export", "serve", "compare", "reproduce", "report",
    "runs", "watch", "policy", "data", "doctor",
)  # fmt: skip
PIPE = 13  # the number of SIGPIPE, which Windows has no name for
# Those that several ranks of a launcher do together, and those that are not for them; all others the main rank does.
TOGETHER, BY_ITSELF = ("train", "search", "check"), ("compare", "reproduce", "profile")


def command_line(asked: str | None = None) -> App:
    """All commands. What help there is beside its first line, the one that is `asked` for has."""
    app = App(
        name="onecycle",
        help="Train PyTorch models well in a fraction of the usual epochs, with the 1cycle policy.\n\n"
        "All commands have --quiet (results, warnings and errors alone), --verbose (all notes, however many) and "
        "--debug (the traceback of an error).",
        help_format="plaintext",  # there is no markup in it, and what reads that takes long to import
        version_flags=["--version"],
        result_action="return_value",  # `main` ends the process, and says how to go on after a Ctrl-C
        suppress_keyboard_interrupt=False,
    )
    for name in COMMANDS:
        line = None if name == asked else first_line(name)
        app.command(f"{__package__}.{name}:{name}", name=name, help=line, help_format="markdown")
    app.register_install_completion_command(help="Install the completion of commands and options for this shell.")
    return app


def first_line(command: str) -> str:
    """The first line of a command's docstring, read without importing it where its source is there.

    >>> first_line("policy")
    'See a schedule before running it.'
    """
    try:
        text = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
    except OSError:  # compiled files alone, or a zip
        described = getattr(import_module(f"{__package__}.{command}"), command).__doc__ or ""
        return described.strip().partition("\n")[0]
    return text.partition(f"\ndef {command}(")[2].split('"""')[1].strip().partition("\n")[0]


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit code 2 for anything that cannot be used, 130 after Ctrl-C, 143 after SIGTERM."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    asked = {word for word in words if word in OF_ALL}
    words, debug = [word for word in words if word not in OF_ALL], "--debug" in asked
    with degraded_output(), of_rank(words):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = partial(_show_warning, sys.stderr)
                with _as_loud(asked):
                    command_line(words[0] if words else None)(words, exit_on_error=False, print_error=False)
                    sys.stdout.flush()
        except (OneCycleError, CycloptsError) as error:
            if debug:
                raise
            if not getattr(error, "silent", isinstance(error, CycloptsError) and not is_main_rank()):
                print(folded(f"error: {of_which(error)}{error}", sys.stderr), file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:  # whoever read what was printed has had enough, such as head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + PIPE)
        except KeyboardInterrupt as stop:
            if not getattr(stop, "silent", False):
                print(folded(str(stop) or "stopped", sys.stderr), file=sys.stderr)
            sys.exit(128 + stop.signal if isinstance(stop, Interrupted) else 130)


@contextmanager
def of_rank(words: list[str]) -> Iterator[None]:
    """Of several ranks of a launcher only the main one prints, and it alone does what is not for several.

    Raises:
        SystemExit: there is nothing to do for this rank.
    """
    if world_asked() == 1:
        if accelerate_started_one():
            print(
                "note: accelerate launch started one process, as it does with --cpu and without GPUs: for several "
                "ranks on CPUs give --multi_gpu instead, which starts them there too, or use torchrun",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        yield
        return
    command, main = words[0] if words else "", is_main_rank()
    if command not in TOGETHER:
        if not main:
            sys.exit(0)
        if command in BY_ITSELF:
            print(
                f"error: {command} starts processes of its own, or measures this one: start it without a launcher such "
                "as torchrun", file=sys.stderr,
            )  # fmt: skip
            sys.exit(2)
    if main:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def of_which(error: Exception) -> str:
    """Which rank an error is of, where it is of one of several alone."""
    rank = getattr(error, "of_rank", None)
    return "" if rank is None else f"rank {rank} of {world_asked()}: "


@contextmanager
def _as_loud(asked: Collection[str]) -> Iterator[None]:
    """Within the block notes and progress are printed as was asked for: none of them, or all notes there are.

    Raises:
        ConfigError: both.
    """
    if {"--quiet", "--verbose"} <= set(asked):
        raise ConfigError("give --quiet or --verbose, one of them")
    before = os.environ.get("ONECYCLE_NOTES")
    if "--verbose" in asked:
        os.environ["ONECYCLE_NOTES"] = "all"
    try:
        if "--quiet" in asked:
            with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
                yield
        else:
            yield
    finally:
        if "--verbose" in asked:
            os.environ.pop("ONECYCLE_NOTES")
            os.environ.update({} if before is None else {"ONECYCLE_NOTES": before})


def _show_warning(stream: TextIO, message: Warning | str, *_: Any) -> None:
    print(folded(f"warning: {message}", stream), file=stream, flush=True)
