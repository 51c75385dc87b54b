"""torchrun as it is, but that it and its ranks are forks: they import nothing again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import forked


def torchrun(
    words: Sequence[str], world: int = 2, *, restarts: int = 3, real: bool = False, **keywords: Any
) -> subprocess.Popen[str]:
    """A torchrun whose ranks run an interpreter's words, as ``["-m", "onecycle", "train"]``; `real`: in fresh ones."""
    flags = [f"--nproc-per-node={world}", f"--max-restarts={restarts}", f"--master-port={free_port()}", "--no-python"]
    path = [os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path), **keywords.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    launcher = "torch.distributed.run as torchrun; torchrun.main" if real else "elastic_makers; elastic_makers.launch"
    code = f"import {launcher}({[*flags, sys.executable, *words]!r})"
    return forked.Popen(["-c", code], **{**pipes, **keywords}, env=env)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Forked(subprocess.Popen):
    """A fork of this process that runs an interpreter's words."""

    def _execute_child(self, args: Sequence[str], *rest: Any, **keywords: Any) -> None:
        env = next(one for one in rest if isinstance(one, dict))
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        code: Any = 70
        try:
            os.setsid()
            for number in range(1, signal.NSIG):
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.set_wakeup_fd(-1)
            os.environ.clear()
            os.environ.update(env)
            try:
                forked._run([word for word in args[1:] if word != "-u"])
                code = 0
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 1
        finally:
            forked._end(code)


def launch(arguments: list[str]) -> None:
    """Be torchrun, with forks for ranks."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
    from torch.distributed.run import main

    subprocess_handler.Popen = Forked
    main(arguments)


def accelerate(arguments: list[str]) -> None:
    """Be ``accelerate launch``, with forks for ranks."""
    from accelerate.commands.launch import main
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = Forked
    sys.argv = ["accelerate", *arguments]
    main()
