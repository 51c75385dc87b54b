"""Threads that give way beside other work: when, by what, and that nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch

import onecycle
from onecycle import Job
from onecycle.jobs.run import run
from onecycle.training import sharing
from onecycle.training.sharing import Neighbours, Usage, considerate, others, usage


def idle_threads() -> int:
    return sum(thread.name == "onecycle-idle" for thread in threading.enumerate())


def looking() -> bool:
    return any(thread.name == "onecycle-neighbours" for thread in threading.enumerate())


@pytest.fixture
def two_threads(monkeypatch) -> Iterator[None]:
    for name in sharing.SET:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class Machine:
    """Cores that others keep busy to a given extent, another at each look; then it tells nothing more."""

    def __init__(self, *busy: float):
        self._busy, self._at, self._used = iter(busy), 0.0, 0.0
        self.over = threading.Event()

    def __call__(self) -> Usage | None:
        busy = next(self._busy, None)
        if busy is None:
            self.over.set()
            return None
        self._at, self._used = self._at + 1.0, self._used + busy + 0.5
        return Usage(self._at, self._used, 0.5 * self._at)


def test_what_others_use_is_what_this_process_does_not():
    assert others(Usage(0.0, 100.0, 20.0), Usage(2.0, 103.0, 21.5)) == 0.75
    assert others(Usage(0.0, 100.0, 20.0), Usage(2.0, 101.0, 22.0)) == 0.0  # ticks are coarser than the clock


def test_the_use_of_the_cores_is_read_where_the_system_tells():
    before = usage()
    if before is None:
        pytest.skip("this system does not tell")
    sum(range(3_000_000))
    now = usage()
    assert now is not None and now.own > before.own and now.all >= before.all > 0 and now.at > before.at


@pytest.mark.parametrize("text", ["", "cpu  1 2\n", "cpu0 a b c d e f g h\n"])
def test_a_system_that_tells_something_else_tells_nothing(monkeypatch, tmp_path, text):
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(sharing, "Path", lambda name: tmp_path / "stat")
    assert usage() is None


def test_idle_threads_come_with_other_work_and_go_with_it(two_threads, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    neighbours = Neighbours()
    neighbours.take(0.2)
    assert not neighbours.giving_way and idle_threads() == 0
    neighbours.take(0.5)
    assert neighbours.giving_way and idle_threads() == 1
    neighbours.take(0.2)
    assert neighbours.giving_way and idle_threads() == 1
    neighbours.take(0.05)
    assert not neighbours.giving_way and idle_threads() == 0


def test_the_end_leaves_no_thread(two_threads, monkeypatch):
    monkeypatch.setattr(sharing, "EVERY", 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    gave_way = []
    take = Neighbours.take
    monkeypatch.setattr(Neighbours, "take", lambda self, busy: (take(self, busy), gave_way.append(idle_threads())))
    machine = Machine(0.0, 0.0, 2.0, 2.0)
    neighbours = Neighbours(machine)
    neighbours.start()
    assert machine.over.wait(60)
    neighbours.end()
    assert gave_way == [0, 1, 1] and idle_threads() == 0 and not looking()


@pytest.mark.parametrize("name", sharing.SET)
def test_who_has_said_how_threads_wait_keeps_that(two_threads, monkeypatch, name):
    with considerate():
        assert looking() == (usage() is not None)
        with considerate():
            assert sum(thread.name == "onecycle-neighbours" for thread in threading.enumerate()) <= 1
    assert not looking()
    monkeypatch.setenv(name, "3000")
    with considerate():
        assert not looking()


def test_one_thread_has_nobody_to_wait_for():
    with considerate():
        assert not looking()


def test_another_number_of_threads_is_taken_up_at_once(monkeypatch):
    """Each thread has a number of its own: that of the one that looks says nothing of the one that computes."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    neighbours = Neighbours()
    neighbours.take(0.5)
    assert idle_threads() == 0
    neighbours.computes_in(2)
    assert neighbours.giving_way and idle_threads() == 1
    neighbours.take(0.5)
    assert idle_threads() == 1
    neighbours.computes_in(1)
    assert not neighbours.giving_way and idle_threads() == 0


def test_a_profile_tells_how_many_threads_it_tries(monkeypatch):
    if usage() is None:
        pytest.skip("this system does not tell")
    for name in sharing.SET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("onecycle.profiling.api.cores", lambda: 2)
    monkeypatch.setattr("onecycle.profiling.measure.MOST", 2)
    told = []
    computes_in = Neighbours.computes_in
    monkeypatch.setattr(Neighbours, "computes_in", lambda self, n: (told.append((n, looking())), computes_in(self, n)))
    data = torch.randn(32, 4), torch.arange(32) % 2
    onecycle.Learner(torch.nn.Linear(4, 2), data, batch_size=8, device="cpu", verbose=False).profile("5s")
    assert (2, True) in told and told[-1] == (1, True) and torch.get_num_threads() == 1
    assert not looking() and idle_threads() == 0


def test_a_run_looks_at_the_cores_from_its_data_to_its_end(two_threads, monkeypatch, tmp_path):
    if usage() is None:
        pytest.skip("this system does not tell")
    seen = []
    monkeypatch.setattr("onecycle.jobs.run.prepare", lambda *_, **__: seen.append(looking()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(Job("digits"), tmp_path / "run")
    assert seen == [True] and not looking()


@pytest.mark.parametrize("name", ["range_test", "search"])
def test_so_does_what_is_there_for_any_loop(name, two_threads, monkeypatch):
    if usage() is None:
        pytest.skip("this system does not tell")
    seen = []
    monkeypatch.setattr(
        import_module(f"onecycle.{name}.api"), "swept_parts", lambda *_: seen.append(looking()) or 1 / 0
    )
    given = {"updates": 100} if name == "search" else {}
    with pytest.raises(ZeroDivisionError):
        getattr(onecycle, name)(None, None, [], **given)
    assert seen == [True] and not looking()
