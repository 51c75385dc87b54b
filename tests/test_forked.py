"""A fork of the server is what a fresh interpreter is, and ends as one."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import forked
import pytest

SURROUNDINGS = """
import os, signal, stat, sys
handlers = {int(number): str(signal.getsignal(number)).split(" at ")[0] for number in signal.Signals}
print(__name__, sys.argv, sys.path, sys.orig_argv, os.getcwd(), sorted(os.environ.items()))
print(handlers, signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgrp(), os.getsid(0))
print([name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")])
print([stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)], sys.stdout.line_buffering)
print(sys.stdin.read())
"""


def both(code: str, **keywords):
    """What a fork does, and what a fresh interpreter does."""
    words = ["-c", code, "a word", "--other"]
    keywords = {"input": None, **keywords}
    given = keywords.pop("input")
    for popen, command in ((forked.Popen, words), (subprocess.Popen, [sys.executable, *words])):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with popen(command, text=True, **pipes, **keywords) as process:
            out, err = process.communicate(given)
        yield process.returncode, out, err


def test_its_surroundings_are_those_of_a_fresh_one(tmp_path):
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}", "LC_ALL": "C.UTF-8", "ONE": "1"}
    (fork, fresh) = both(SURROUNDINGS, input="said", cwd=tmp_path, env=environment)
    assert fork == fresh and fork[0] == 0 and fork[1].endswith("said\n")


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("print('x')", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(print, 'later'); print('x')", 0, ""),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(.01), print('late'))).start()", 0, ""),
    ],
)
def test_it_ends_as_a_fresh_one(code, returncode, said):
    fork, fresh = both(code)
    assert fork[:2] == fresh[:2] and fork[0] == returncode
    assert [end[2].splitlines()[-1:] for end in (fork, fresh)] == [[said] if said else []] * 2


def test_it_is_signalled_and_waited_for():
    code = "import time; print('begun', flush=True); time.sleep(100)"
    with forked.Popen(["-c", code], stdout=subprocess.PIPE) as one:
        assert one.stdout is not None and one.stdout.readline() == b"begun\n"
        assert one.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0.01)
        one.terminate()
        assert one.wait(60) == one.poll() == -signal.SIGTERM


def test_on_a_terminal_of_its_own():
    mine, its = pty.openpty()
    code = "import os, sys; print(sys.stdout.isatty(), os.getsid(0) == os.getpid())"
    with forked.Popen(["-c", code], stdin=its, stdout=its, stderr=its, start_new_session=True):
        os.close(its)
        assert os.read(mine, 100) == b"True True\r\n"
    os.close(mine)


def test_a_module_is_the_program(tmp_path):
    (tmp_path / "program.py").write_text(
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    print(sys.argv, __spec__.name)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(len, ['abc']))\n"
    )
    done = forked.run(["-m", "program", "x"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"[{str(tmp_path / 'program.py')!r}, 'x'] program\n[3]\n"
