"""The command: the public functions, from the shell."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from cyclopts import App, CycloptsError

from ..errors import Interrupted, OneCycleError
from .check import check
from .compare import compare
from .data import data
from .policy import policy
from .predict import predict
from .printing import degraded_output
from .profile import profile
from .report import report
from .reproduce import reproduce
from .runs import runs
from .search import search
from .train import train

app = App(
    name="onecycle",
    help="Train PyTorch models well in a fraction of the usual epochs, with the 1cycle policy.",
    version_flags=["--version"],
    result_action="return_value",  # `main` ends the process, and says how to go on after a Ctrl-C
    suppress_keyboard_interrupt=False,
)
for command in (check, profile, train, search, predict, compare, reproduce, report, runs, policy, data):
    app.command(command)
app.register_install_completion_command(help="Install the completion of commands and options for this shell.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit code 2 for anything that cannot be used, 130 after Ctrl-C, 143 after SIGTERM."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with degraded_output():
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                app(words, exit_on_error=False, print_error=False)
        except (OneCycleError, CycloptsError) as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            print(str(stop) or "stopped", file=sys.stderr)
            sys.exit(128 + stop.signal if isinstance(stop, Interrupted) else 130)


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
