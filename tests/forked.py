"""Python processes without the seconds that importing torch takes: forks of a server that has imported it.

`Popen` is that of `subprocess`, but for its arguments, which are an interpreter's: ``["-m", "onecycle", "train"]`` or
``["-c", code]``. A process has its own standard streams, environment, working directory, signals in their first state
and module ``__main__``, no other open files, and ends as an interpreter does. Two things differ from a fresh one:
modules are imported already, and variables that are read as they are (OMP_NUM_THREADS) are those of the tests.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import inspect
import io
import os
import pickle
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from contextlib import suppress
from typing import Any, NamedTuple

# What the commands load as they go; what is not installed is left out.
PRELOADED = (
    "torch._dynamo", "safetensors.torch", "scipy.stats", "rich.progress", "rich.table", "jinja2.ext", "plotly.offline",
    "matplotlib.backends.backend_agg", "matplotlib.pyplot",
    "onecycle.commands.app", "onecycle.experiments.comparison", "onecycle.jobs.check", "onecycle.jobs.run",
    "onecycle.learner", "onecycle.report.matplotlib", "onecycle.report.page", "onecycle.report.terminal",
)  # fmt: skip
NUMBER = struct.Struct("=i")


class Request(NamedTuple):
    """A process to be: an interpreter's arguments, and its surroundings."""

    words: list[str]
    environment: dict[str, str]
    directory: str
    new_session: bool


class Popen(subprocess.Popen):
    """A fork of the server."""

    def _execute_child(self, *args: Any, **keywords: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *args, **keywords).arguments  # pyright: ignore
        words = list(map(os.fspath, given["args"]))
        environment = dict(os.environ if given["env"] is None else given["env"])
        request = pickle.dumps(Request(words, environment, os.fspath(given["cwd"] or os.getcwd()),
                                       bool(given["start_new_session"])))  # fmt: skip
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        self._status, its = socket.socketpair()
        with its:
            files = [*(i if fd == -1 else fd for i, fd in enumerate(streams)), its.fileno()]
            socket.send_fds(_server(), [b"x"], files)
        self._status.sendall(NUMBER.pack(len(request)) + request)
        self.pid = _number(self._status)
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*map(given.get, ends))  # pyright: ignore

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._try_wait(0)
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        with self._status:
            status = _number(self._status)
        self._handle_exitstatus(status)  # pyright: ignore
        return self.pid, status


def run(words: list[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
    """What a process printed, as `subprocess.run` with ``capture_output=True, text=True``."""
    with Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@functools.cache
def _server() -> socket.socket:
    """The connection to a server of this process, which ends with it."""
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, __file__, str(its.fileno())]
        process = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _number(connection: socket.socket) -> int:
    return NUMBER.unpack(_exactly(connection, NUMBER.size))[0]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the server of forked processes is gone")
        data += more
    return data


# In the server


def serve(control: socket.socket) -> Request | None:
    """In a fork: what it is to be. In the server: None when nobody is left who asks."""
    reports: dict[int, socket.socket] = {}
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    while True:
        ready, *_ = select.select([control, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            _report(reports)
        if control in ready:
            said, files, *_ = socket.recv_fds(control, 1, 4)
            if not said:
                return None
            *streams, report = files
            connection = socket.socket(fileno=report)
            request = pickle.loads(_exactly(connection, _number(connection)))
            pid = os.fork()
            if pid == 0:
                for used in (control, connection, *reports.values()):
                    used.detach()  # what has its number is closed below, and may be another file later
                _become(request, streams)
                return request
            for fd in streams:
                os.close(fd)
            reports[pid] = connection
            connection.sendall(NUMBER.pack(pid))


def _report(reports: dict[int, socket.socket]) -> None:
    """Tell the statuses of processes that have ended."""
    for pid in list(reports):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with reports.pop(pid) as connection, suppress(BrokenPipeError):  # nobody waits for it
                connection.sendall(NUMBER.pack(status))


def _become(request: Request, streams: list[int]) -> None:
    """Make this fork what a fresh interpreter finds."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.new_session:
        os.setsid()
    for number, fd in enumerate(streams):  # they are above 2, as the server's own are open
        os.dup2(fd, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout, sys.stderr = map(_stream, range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # pyright: ignore
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    first = request.directory if request.words[0] == "-m" else ""
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [first, *named, *(path for path in sys.path[1:] if path not in before)]
    sys.orig_argv[:] = [sys.executable, *request.words]


def _stream(number: int) -> io.TextIOWrapper:
    raw = open(number, "rb" if number == 0 else "wb", closefd=False)  # noqa: SIM115 - lasts as long as the process
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=number == 2 or raw.isatty())


def _run(words: list[str]) -> None:
    """As ``python WORDS``."""
    kind, what, *rest = words
    if kind == "-m":
        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c", words
        sys.argv = ["-c", *rest]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(what, vars(main))


def _end(code: str | int | None) -> None:
    """As an interpreter ends, but for taking down what it holds, which lasts half a second."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # pyright: ignore
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(code, str) else code or 0)


def main() -> None:
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            if error.name is None or error.name.startswith("onecycle"):
                raise
    gc.collect()
    gc.freeze()
    if (request := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        code = 0
        try:
            _run(request.words)
        except SystemExit as stop:
            code = stop.code
        _end(code)


if __name__ == "__main__":
    main()
