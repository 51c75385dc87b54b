"""A service: requests a second and how long each takes, one and 32 at once, beside what the model takes by itself.

    python bench/serve.py [--rounds 5] [--seconds 3]

Server and clients are processes of one machine, so that they share its cores; a client is a thread with a connection
of its own that asks, waits for the answer, and asks again. What is asked takes turns, round by round: a digit as a PNG
(`small-cnn`), a photo of 1600 x 1200 pixels as a JPEG to the same model, a row of a table of six columns as JSON.
Beside it is the same in this process without HTTP: the model for one sample that lies in memory, the same from its
bytes, and for 32 samples at once. All in one thread of torch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

from onecycle import Job, load, load_run, run
from onecycle.deployment.questions import Question, samples_of

CONCURRENT = (1, 32)


def trained(at: Path) -> None:
    """A run of digits and one of a table."""
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=1000).round(3) for i in range(4)}
    columns |= {"city": rng.choice(["Bern", "Oslo", "Rome"], 1000), "member": rng.choice(["true", "false"], 1000)}
    columns["y"] = np.where(columns["x0"] > 0, "high", "low")
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (at / "table.csv").write_text("\n".join(lines) + "\n")
    with contextlib.chdir(at):
        run(Job("digits", model="small-cnn", budget="2 epochs"), "digits", report=False)
        run(Job("table.csv", target="y", budget="2 epochs"), "table", report=False)


def bodies() -> dict[str, tuple[str, str, bytes]]:
    """What is asked: the run, the media type, and the body."""
    digit, photo = io.BytesIO(), io.BytesIO()
    Image.fromarray(load("digits").test.inputs[0, 0].numpy()).save(digit, "PNG")
    noise = np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)
    Image.fromarray(noise).resize((1600, 1200)).save(photo, "JPEG", quality=85)
    row = {"x0": 0.5, "x1": -1.2, "x2": 0.1, "x3": 2.0, "city": "Oslo", "member": "true"}
    return {
        "digit, PNG": ("digits", "image/png", digit.getvalue()),
        "photo, JPEG": ("digits", "image/jpeg", photo.getvalue()),
        "row, JSON": ("table", "application/json", json.dumps(row).encode()),
    }


@contextlib.contextmanager
def served(at: Path, name: str):
    """The port of a server of a run, in a process of its own."""
    command = [sys.executable, "-m", "onecycle", "serve", name, "--port", "0"]
    with subprocess.Popen(command, cwd=at, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = process.stdout.readline()
        yield int(line.rpartition(":")[2].partition("/")[0])
        process.terminate()


def ask(port: int, media: str, body: bytes, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Answers a second, and the seconds of each."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    request, times, began = head.encode() + body, [], threading.Barrier(clients + 1)
    ends = [0.0]

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began.wait()
            while (start := time.perf_counter()) < ends[0]:
                connection.sendall(request)
                answer = connection.recv(65536)
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(answer.decode())
                times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    ends[0] = time.perf_counter() + seconds
    began.wait()
    for thread in threads:
        thread.join()
    return len(times) / seconds, times


def alone(call: Callable[[], object], seconds: float) -> list[float]:
    """The seconds of each call."""
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - start)
    return times


def in_process(at: Path, name: str, media: str, body: bytes) -> dict[str, Callable[[], object]]:
    """The same without HTTP."""
    model = load_run(at / name, verbose=False)
    sample = samples_of(model, Question(body, media), lambda note: None)
    many = torch.cat([sample] * 32)
    return {
        "model, 1": lambda: model.of_samples(sample),
        "bytes and model, 1": lambda: model.of_samples(samples_of(model, Question(body, media), lambda note: None)),
        "model, 32": lambda: model.of_samples(many),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[tuple[str, str], list[float]] = {}
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        at = Path(folder)
        trained(at)
        ports = {name: servers.enter_context(served(at, name)) for name in ("digits", "table")}
        for i in range(given.rounds + 1):  # the first is to get warm
            for what, (name, media, body) in bodies().items():
                cells = {f"HTTP, {n} at once": ask(ports[name], media, body, n, given.seconds) for n in CONCURRENT}
                for how, call in in_process(at, name, media, body).items():
                    spent = alone(call, given.seconds / 3)
                    cells[how] = len(spent) * (32 if how.endswith("32") else 1) / sum(spent), spent
                for how, (rate, spent) in cells.items() if i else ():
                    rates.setdefault((what, how), []).append(rate)
                    times.setdefault((what, how), []).extend(spent)
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    print("| | | samples a second, median (least to most) | ms, median | 95 % | 99 % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (what, how), each in rates.items():
        centiles = statistics.quantiles(times[what, how], n=100)
        shown = " | ".join(f"{1000 * centiles[i]:.3g}" for i in (49, 94, 98))
        print(f"| {what} | {how} | {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}) | {shown} |")


if __name__ == "__main__":
    main()
