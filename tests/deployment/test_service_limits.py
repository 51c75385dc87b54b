"""A service on the net: limits, concurrency, whom it answers, what it opens, how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import io
import json
import re
import signal
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run
from service_makers import Served, check_classes, digit, encoded, form, model_of, trained
from torch import nn

import onecycle
from onecycle import Learner, load

# Writes each file that the process opens to standard error, unless it was imported.
AUDITED = """
import os, sys
def told(event, words):
    if event == "open" and not str(words[0]).endswith((".py", ".pyc")):
        os.write(2, f"opened {words[0]}\\n".encode())
sys.addaudithook(told)
from onecycle.commands.app import main
main()
"""


# Limits


def test_a_body_that_is_declared_too_long_is_refused_unread(digits):
    with socket.create_connection(("127.0.0.1", digits.port), timeout=60) as sent:
        sent.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: 10000000000\r\n\r\n"
        )
        said = b""
        while not said.endswith(b"}"):  # nothing of the body was sent
            said += sent.recv(65536)
    assert said.startswith(b"HTTP/1.1 413 ") and b"received a body of 10 GB; allowed are 200 kB" in said


def test_a_body_in_chunks_is_counted(digits):
    said = digits.raw(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 10 + b"0\r\n\r\n"
    )  # fmt: skip
    assert said.startswith(b"HTTP/1.1 413 ") and b"more than 200 kB" in said


def test_a_large_file_up_to_the_limit(digits):
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    assert 150_000 < len(encoded(noise)) < 200_000
    assert digits.predictions(encoded(noise), "image/png")
    assert "received a body of" in digits.refusal(413, b"x" * 200_001, "image/png")
    assert "received a body of" in digits.refusal(413, b"x" * 3_000_000, "image/png")  # all of it is sent


def test_who_is_too_slow_is_told(service):
    slow = service("digits", "--timeout", "0.3s", key="slow")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
    said = slow.raw(head + b"x" * 10)
    assert said.startswith(b"HTTP/1.1 408 ") and b"received 10 bytes in 0.3 s, and not yet the end" in said
    assert slow.ask(path="/health", method="GET")[0] == 200


# Some samples take until a signal comes; that they are begun is said.
WAITING = """
import signal, sys, threading
from onecycle.deployment import batcher
first, told = batcher.samples_of, threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: told.set())
def wait(*words):
    if words[1].body == b"slow":
        print("begun", file=sys.stderr, flush=True)
        told.wait()
    return first(*words)
batcher.samples_of = wait
from onecycle.commands.app import main
main()
"""


def test_what_takes_too_long_is_told(service):
    busy = service("digits", "--timeout", "0.4s", key="busy", words=("-c", WAITING))
    good = encoded(digit(0))
    with ThreadPoolExecutor(2) as pool:
        computing = pool.submit(busy.refusal, 504, b"slow", "image/png")
        while "begun" not in busy.log.read_text():
            pass
        assert "waited 0.4 s" in busy.refusal(503, good, "image/png")
        assert "not computed in 0.4 s" in computing.result()
    busy.process.send_signal(signal.SIGUSR1)
    while busy.ask(good, "image/png")[0] != 200:  # it goes on where it was
        pass


def test_what_is_not_waited_for_any_more_is_not_kept(at):
    """Bodies of requests that gave up would fill the memory while the model is busy."""
    pytest.importorskip("python_multipart")
    batcher = importlib.import_module("onecycle.deployment.batcher")
    questions = importlib.import_module("onecycle.deployment.questions")
    waiting = batcher.Batcher(model_of(at, "digits"))  # nobody answers
    question = questions.Question(b"x", "image/png")
    body, answer = weakref.ref(question), waiting.ask(question)
    del question
    assert body() is not None
    answer.cancel()
    assert body() is None


CROWDED = WAITING.replace(
    "first, told",
    "from onecycle.deployment import server, service\nservice.REQUESTS, server.HEADERS = 1, 0.2\nfirst, told",
)


def test_more_at_once_than_are_allowed(service):
    crowded = service("digits", key="crowded", words=("-c", CROWDED))
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(crowded.refusal, 422, b"slow", "image/png")
        while "begun" not in crowded.log.read_text():
            pass
        assert "more than 1 request at once" in crowded.refusal(503, encoded(digit(0)), "image/png")
        assert crowded.headers["retry-after"] == "1"
        crowded.process.send_signal(signal.SIGUSR1)
        assert "does not decode" in computing.result()
    assert crowded.predictions(encoded(digit(0)), "image/png")


FEW_CONNECTIONS = """
from onecycle.deployment import server
server.CONNECTIONS = 2
from onecycle.commands.app import main
main()
"""


def test_a_service_that_is_full(service):
    few = service("digits", key="few", words=("-c", FEW_CONNECTIONS))
    with contextlib.ExitStack() as idle:
        for _ in range(2):
            idle.enter_context(socket.create_connection(("127.0.0.1", few.port), timeout=60))
        said = few.refusal(503, encoded(digit(0)), "image/png")
        assert said == "more than 2 connections at once; try again in a second"
        assert (few.headers["content-type"], few.headers["retry-after"]) == ("application/json", "1")
    while few.ask(path="/health", method="GET")[0] != 200:
        pass
    assert few.predictions(encoded(digit(0)), "image/png")


def test_a_head_that_does_not_come_is_not_waited_for(service):
    crowded = service("digits", key="crowded", words=("-c", CROWDED))
    for head in (b"", b"POST /predict HT"):
        assert crowded.raw(head) == b""  # it ends


def test_a_connection_is_used_again(digits):
    connection = http.client.HTTPConnection("127.0.0.1", digits.port, timeout=60)
    with contextlib.closing(connection):
        for body, status in ((encoded(digit(0)), 200), (b"junk", 422), (encoded(digit(1)), 200)):
            connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            assert answer.status == status and json.loads(answer.read())


def test_32_at_once_have_each_its_own_answer(at, digits, people):
    trained = model_of(at, "digits")
    inputs = load("digits").test.inputs[:64]
    shares, files = trained.predict(inputs), [encoded(digit(i)) for i in range(64)]
    begin = threading.Barrier(32)

    def ask(i: int) -> None:
        begin.wait()
        for j in (i, 63 - i):
            check_classes(digits.predictions(files[j], "image/png"), shares[j : j + 1], trained.classes)
            digits.refusal(422, b"junk", "image/png")  # among those that are batched

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == [None] * 32
    rows = model_of(at, "people")
    frame = {"age": list(range(20, 84, 2)), "city": ["Oslo"] * 32, "joined": ["2021-05-06"] * 32}
    with ThreadPoolExecutor(32) as pool:
        asked = [{name: values[i] for name, values in frame.items()} for i in range(32)]
        answers = list(pool.map(people.predictions, asked))
    check_classes([one for (one,) in answers], rows.predict(frame), rows.classes)


BEYOND = 10**400
ROW = {"age": 1.5, "city": "Oslo", "joined": None}


@pytest.mark.parametrize(
    ("body", "media", "said"),
    [
        (
            b'{"age": 1e400, "city": "Oslo", "joined": null}',
            "application/json",
            "age of the table has 1 infinite value, the first in row 1",
        ),
        ([ROW, {**ROW, "age": -BEYOND}], "application/json", "has 1 infinite value, the first in row 2"),
        (b"age,city,joined\n1,Oslo,\n1e400,Oslo,\n", "text/csv", "has 1 infinite value, the first in row 2"),
    ],
)
def test_cells_beyond_all_floats(people, body, media, said):
    assert said in people.refusal(422, body, media)


def test_cells_that_are_far_are_told_as_far(people):
    for age in (1e39, -1e308, 10**39):
        status, answer = people.ask({**ROW, "age": age})
        assert status == 200 and answer["notes"] == ["1 of 1 value of age far from all that was seen in training"]


@pytest.mark.parametrize("value", ["1e39", "-1e400", str(10**39), str(BEYOND)])
def test_arrays_beyond_single_precision(service, value):
    array = service("array")
    before = array.log.read_bytes()
    assert "sent, or beyond 3.4e+38: 1 of 1 samples" in array.refusal(422, f"[1, 2.5, {value}]".encode())
    wide = io.BytesIO()
    np.save(wide, np.array([1, 2, value], np.longdouble))
    assert "sent, or beyond 3.4e+38" in array.refusal(422, wide.getvalue(), "application/octet-stream")
    assert array.log.read_bytes() == before  # and no warning of numpy


def test_a_number_of_too_many_digits(people):
    said = people.refusal(400, b'{"age": 1' + b"0" * 5000 + b"}")
    assert "4300 digits" in said and "sys." not in said


def test_an_empty_content_encoding_is_none(people):
    assert people.ask(ROW, Content_Encoding="")[0] == 200


# Whom it answers


def test_hosts_and_pages_of_elsewhere(people):
    row = {"age": 1, "city": "x", "joined": None}
    for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example"):
        assert "give --allow-host" in people.refusal(403, row, Host=host)
    for host in ("localhost", f"127.0.0.1:{people.port}", "[::1]:8000", "LOCALHOST:99", "192.168.0.7"):
        assert people.ask(row, Host=host)[0] == 200
    assert "from a page of http://evil.example" in people.refusal(403, row, Origin="http://evil.example")
    assert "from a page" in people.refusal(403, row, Origin="null")
    assert people.ask(row, Origin=f"http://127.0.0.1:{people.port}")[0] == 200


def test_what_is_no_http(people):
    for sent, status, said in (
        (b"junk\r\n\r\n", b"400 Bad Request", b"illegal request line"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request", b"Missing mandatory Host: header"),
        (
            b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"400 Bad Request", b"conflicting Content-Length headers",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000,
            b"431 Request Header Fields Too Large", b"its head is longer than 16,384 bytes",
        ),
    ):  # fmt: skip
        answer = people.raw(sent)
        assert answer.startswith(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n")
        assert said in answer and list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]
    assert people.ask(path="/health", method="GET")[0] == 200


TRICKS = (
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "\\\\evil\\x",
    "people.csv",
    "|id",
    "C:/boot.ini",
    "~/.ssh/id",
)


def test_nothing_in_a_request_is_opened(at, service):
    """Names of files, values, texts and what is in files that name others: the server opens no file for them."""
    audited = ("-c", AUDITED)
    served = {name: service(name, key=f"audited-{name}", words=audited) for name in ("digits", "people", "array")}

    def ask_all() -> None:
        digits, people, array = served.values()
        for trick in TRICKS:
            digits.predictions(*form((trick, "image/png", encoded(digit(0)))))
            for media in ("image/png", "application/octet-stream"):
                digits.ask(trick.encode(), media)
            digits.ask(path="/" + trick.replace("\\", ""), method="GET")
            assert people.predictions({"age": 1, "city": trick, "joined": None})
            people.ask({"age": trick, "city": trick, "joined": trick, trick: trick})
            people.ask([trick])
            people.ask(trick)
            people.ask(trick.encode(), "text/csv")
            people.ask(f"age,city,joined\n1,{trick},\n".encode(), "text/csv")
            array.ask([trick])
            array.ask(trick.encode(), "application/octet-stream")
        for kind in ("JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
            digits.predictions(encoded(digit(0), kind), "image/png")
        digits.ask(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "image/png")
        digits.ask(b"#FIG 3.2\n" + b"../../etc/passwd\n" * 9, "image/png")

    ask_all()  # what is imported at the first time is
    before = {name: len(one.log.read_bytes()) for name, one in served.items()}
    ask_all()
    for name, one in served.items():
        assert one.log.read_bytes()[before[name] :] == b""
        opened = one.log.read_text()
        assert f"opened {name}/run.json" in opened  # the hook hears
        assert "passwd" not in opened and "boot.ini" not in opened


# Starting and stopping


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it(at, tmp_path, number, status):
    trained(at, "array")
    served = Served(["-m", "onecycle", "serve", "array", "--port", "0"], at, tmp_path / "log")
    with socket.create_connection(("127.0.0.1", served.port)):  # somebody who asks nothing is no reason to wait
        assert served.predictions([1, 2, 3])
        assert served.stop(number) == (status, "stopped\n")


def refused(at: Path, *words: str) -> str:
    trained(at, "people")
    done = run(["-m", "onecycle", "serve", *words], cwd=at)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    return done.stderr


def test_answers_are_sent_at_once():
    """asyncio does so for sockets of TCP by name; else the second part of an answer waits for 40 ms."""
    pytest.importorskip("uvicorn")
    server = importlib.import_module("onecycle.deployment.server")
    with server.listening("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_port_that_is_in_use(at, people):
    said = refused(at, "people", "--port", str(people.port))
    match = re.fullmatch(rf"error: port {people.port} is in use: give --port (\d+)\n", said)
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(match[1])))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no run in nowhere"), (["people", "--port", "70000"], "from 0 to 65535; received 70000"),
        (["people", "--host", "no.such.host.invalid"], "received 'no.such.host.invalid'"),
        (["people", "--host", "192.0.2.1"], "Give an address of this machine"),
        (["people", "--max-bytes", "0"], "at least 1; received 0"),
        (["people", "--timeout", "3 epochs"], "a time such as 30s"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_use(at, words, said):
    assert said in refused(at, *words)


OWN = """
from torch import nn
from onecycle.deployment.server import serve
serve("own", model=nn.Sequential(nn.Linear(3, 2)), port=0)
"""


def test_a_run_whose_model_is_given(at, tmp_path):
    x, model = torch.randn(40, 3), nn.Sequential(nn.Linear(3, 2))
    learn = Learner(model, (x, x[:, :2]), batch_size=8, verbose=False, device="cpu")
    learn.fit_one_cycle(1, 0.01, out=at / "own")
    assert "load_run('own', model=...)" in refused(at, "own")
    served = Served(["-c", OWN], at, tmp_path / "log")
    ((got,),) = (list(one.values()) for one in served.predictions([1, 2, 3]))
    assert got == pytest.approx(learn.predict(torch.tensor([[1.0, 2, 3]]))[0].tolist(), abs=1e-5)
    assert served.predictions([[1, 2, 3]] * 2) == [{"output": pytest.approx(got)}] * 2
    served.stop()


def test_what_is_predicted_character_by_character(at):
    (at / "letters.txt").write_text("some letters, and more of them. " * 40)
    onecycle.run(onecycle.Job(str(at / "letters.txt"), budget="1 updates"), at / "letters", report=False)
    assert "this run is of text, predicted character by character" in refused(at, "letters")


@pytest.mark.parametrize("name", ["starlette", "python_multipart", "uvicorn"])
def test_a_package_that_is_missing(at, name):
    code = f"import sys; sys.modules[{name!r}] = None; from onecycle.commands.app import main; main(['serve', 'x'])"
    done = run(["-c", code], cwd=at)
    assert done.returncode == 2 and "pip install 'onecycle[serve]'" in done.stderr


def test_all_interfaces_are_said(at, tmp_path):
    trained(at, "array")
    served = Served(
        ["-m", "onecycle", "serve", "array", "--port", "0", "--host", "0.0.0.0", "--allow-host", "model.example"],
        at,
        tmp_path / "log",
    )
    assert served.ask([1, 2, 3], Host="model.example:80")[0] == 200
    assert "give --allow-host other.example" in served.refusal(403, [1, 2, 3], Host="other.example")
    status, log = served.stop()
    assert status == 143 and log.startswith("note: it listens at all interfaces")
