"""The sockets of a process group, which torch keeps open while anything refers to the group."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

OPEN = Path("/proc/self/fd")


def sockets() -> set[tuple[int, int]]:
    """The sockets that are open, by file descriptor and inode; none where the system does not list them."""
    found = set()
    for name in os.listdir(OPEN) if OPEN.is_dir() else ():
        with suppress(OSError):  # that of the folder itself is closed by now
            about = os.fstat(int(name))
            if stat.S_ISSOCK(about.st_mode):
                found.add((int(name), about.st_ino))
    return found


def close(those: Iterable[tuple[int, int]]) -> None:
    """End connections for both sides, where they are still open; nobody waits for this process then."""
    for number, _ in sockets() & set(those):
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                connection.shutdown(socket.SHUT_RDWR)
