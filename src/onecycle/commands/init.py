"""The command that writes a file of options."""

from __future__ import annotations

import shlex
from pathlib import Path

from .options import Flag


def init(data: str, *, out: Path = Path("onecycle.toml"), target: str | None = None, show: Flag = False) -> None:
    """Look at data, and write a commented TOML file of the options to train on them.

    "onecycle train FILE.toml" runs it.

    Parameters
    ----------
    data
        What "onecycle train" takes: a folder, a table, a name.
    out
        The file. It is not overwritten.
    target
        Of a table: the column to be predicted from the others. Default: the last one.
    show
        Print what is written, too.
    """
    from ..jobs.draft import draft

    text = draft(data, out, target=target)
    if show:
        print(text)
    print(f"written: {out}", f"To train: {shlex.join(['onecycle', 'train', str(out)])}", sep="\n")
