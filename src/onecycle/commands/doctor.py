"""The command that looks at the machine."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from .options import Json
from .printing import print_json, terminal_width


def doctor(folder: Path = Path("."), *, json: Json = False) -> None:
    """Say what is installed, and whether this machine is ready to train.

    The exit code is 1 where training could not work, else 0.

    Parameters
    ----------
    folder
        Where runs are to be written.
    """
    from ..jobs.doctor import FAULT, diagnose, plain

    findings = diagnose(folder)
    if json:
        print_json(plain(findings))
    else:
        wide = max(len(one.name) for one in findings) + 2
        width = max(40, terminal_width() or 100)
        for one in findings:
            head = f"{one.status:<8}{one.name:<{wide}}"
            indent = " " * len(head)
            print(textwrap.fill(one.found, width, initial_indent=head, subsequent_indent=indent))
            if one.mend:
                print(
                    textwrap.fill(
                        f"-> {one.mend}", width, initial_indent=" " * len(head), subsequent_indent=" " * (len(head) + 3)
                    )
                )
    if any(one.status == FAULT for one in findings):
        sys.exit(1)
