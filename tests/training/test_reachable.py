"""Modules are found by what code refers to and by what it calls, never by a walk over all objects."""

from __future__ import annotations

import functools
import gc
import itertools
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import forked
import pytest
import torch
import torch.distributed as dist
from range_makers import changes, plain, snapshot
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training_makers import blobs, seeded_net

from onecycle import range_test, untouched
from onecycle.range_test.sharpness import sharpness
from onecycle.training import reachable
from onecycle.training.reachable import modules_of

X, Y = blobs(16)
NET = seeded_net()
HIDDEN: dict[str, nn.Module] = {}


def of_a_global(batch):
    return NET(batch)


def of_a_global_within(batch):
    return (lambda: [NET(one) for one in batch])()


class Trainer:
    shared: dict[str, nn.Module] = {}  # noqa: RUF012

    def __init__(self, net=None):
        self.inner = types.SimpleNamespace(nets=[{"net": net}])

    def __call__(self, batch):
        return of_a_global(batch)

    def step(self, batch):
        return self.inner.nets[0]["net"](batch)


def closure(net):
    return lambda batch: net(batch)


def by_default(net):
    def step(batch, net=net, *, other=None):
        return net(batch)

    return step


def wrapped(net):
    @torch.no_grad()
    @functools.lru_cache
    def step(batch):
        return net(batch)

    return step


def of_a_module_of_python(net):
    module = types.ModuleType("models_of_mine")
    module.net = net  # type: ignore[attr-defined]
    namespace = {"mine": module}
    exec("def step(batch): return mine.net(batch)", namespace)
    return namespace["step"]


def of_a_class(net):
    Trainer.shared["net"] = net
    return Trainer()


STEPS = {
    "closure": closure,
    "default": by_default,
    "wrapped": wrapped,
    "partial": lambda net: functools.partial(closure(net), 3),
    "method": lambda net: Trainer(net).step,
    "object": lambda net: Trainer(net),
    "class": of_a_class,
    "module": of_a_module_of_python,
    "compiled": lambda net: torch.compile(closure(net), backend="eager"),
    "model": lambda net: net,
}


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_a_step_leads_to_its_modules(make):
    net, other = seeded_net(), seeded_net()
    assert modules_of(net.parameters(), make(net)) == [net]
    assert modules_of(other.parameters(), make(net)) == []


@pytest.mark.parametrize("step", [of_a_global, of_a_global_within, Trainer()])
def test_a_step_leads_to_the_globals_that_it_names(step):
    assert modules_of(NET.parameters(), step) == [NET]


def test_each_parameter_is_looked_for_and_what_lies_beside():
    net, critic, other = seeded_net(), seeded_net(), seeded_net()
    found = modules_of([*net.parameters(), *critic.parameters()], (net[0], [[critic]], net, other))
    assert {id(module) for module in found} == {id(module) for module in (net[0], net, critic)}
    assert modules_of([nn.Parameter(torch.ones(1))], net) == [] == modules_of([], net)


class Foreign:
    """An object that must not be asked for anything."""

    def __getattribute__(self, name):
        raise AssertionError(f"asked for {name}")


def test_no_code_of_the_objects_runs_and_large_data_are_not_gone_through(monkeypatch):
    net, foreign, many = seeded_net(), Foreign(), [[i] for i in range(100_000)]
    looked = []
    monkeypatch.setattr(
        reachable, "_referred", lambda thing, inner=reachable._referred: looked.append(0) or inner(thing)
    )
    assert modules_of(net.parameters(), [foreign, many, [[net]]]) == [net]
    assert len(looked) < 3 * reachable.WIDEST
    assert modules_of([nn.Parameter(torch.ones(1))], [[list(row) for row in [range(1_000)] * 1_000]] * 3) == []
    assert len(looked) < 2 * reachable.MOST


def walk(*_):
    raise AssertionError("a walk over all objects of the process")


@pytest.fixture
def no_walk(monkeypatch):
    for name in ("get_objects", "get_referrers"):
        monkeypatch.setattr(gc, name, walk)


def stepping(net, optimizer, train=False):
    def step(batch):
        if train:
            net.train()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.usefixtures("no_walk")
@pytest.mark.parametrize("compiled", [False, True])
def test_norms_and_modes_before_the_first_call_are_put_back(compiled):
    net = seeded_net().eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    if compiled:
        net.compile(backend="eager")
    before = snapshot([net], [optimizer])
    with untouched([optimizer]):
        net.train()
        stepping(net, optimizer)((X, Y))
        assert {"buffers", "modes", "weights"} <= set(changes(before, snapshot([net], [optimizer])))
    assert changes(before, snapshot([net], [optimizer])) == []
    step = stepping(net, optimizer, train=True)
    range_test(step, optimizer, [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)], updates=64, epochs=1)
    assert changes(before, snapshot([net], [optimizer])) == []
    if not compiled:
        sharpness(lambda: nn.functional.cross_entropy(net.train()(X), Y), net.parameters(), iterations=2)
        assert changes(before, snapshot([net], [optimizer])) == ["modes"]


def hidden(name):
    """The module by a way that no reference shows."""
    return getattr(sys.modules[__name__], "HID" + "DEN")[name]


@pytest.mark.usefixtures("no_walk")
def test_modules_that_nothing_leads_to_are_put_back_once_they_are_called(monkeypatch):
    net, norm = seeded_net(), nn.BatchNorm1d(4, affine=False)
    monkeypatch.setitem(HIDDEN, "net", net)
    monkeypatch.setitem(HIDDEN, "norm", norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = snapshot([net, norm], [optimizer])
    del net, norm

    def step(batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(hidden("net")(hidden("norm")(batch[0])), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    with untouched([optimizer]):
        step((X, Y))
        hidden("net").eval()
        hidden("net")[0][1].running_mean = torch.ones(8)
    assert changes(before, snapshot(list(HIDDEN.values()), [optimizer])) == []
    test = range_test(step, optimizer, [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)], updates=64, epochs=1)
    assert changes(before, snapshot(list(HIDDEN.values()), [optimizer])) == []
    assert test.batch_norm, "the model is known once it was called"
    sharpness(lambda: nn.functional.cross_entropy(hidden("net")(X), Y), optimizer.param_groups[0]["params"])
    assert changes(before, snapshot(list(HIDDEN.values()), [optimizer])) == []


def test_what_another_thread_calls_is_its_own(monkeypatch):
    monkeypatch.setitem(HIDDEN, "norm", nn.BatchNorm1d(4))
    with untouched([torch.optim.SGD([nn.Parameter(torch.ones(1))])]):
        thread = threading.Thread(target=lambda: hidden("norm")(X))
        thread.start()
        thread.join()
        hidden("norm").eval()
    assert hidden("norm").num_batches_tracked == 1 and not hidden("norm").training


def test_buffers_that_are_replaced_for_a_call_do_not_stay(monkeypatch):
    monkeypatch.setitem(HIDDEN, "net", seeded_net())
    before = snapshot([HIDDEN["net"]], [])
    mine = {name: tensor.detach().clone() for name, tensor in hidden("net").state_dict().items()}
    with untouched([torch.optim.SGD([nn.Parameter(torch.ones(1))])]):
        torch.func.functional_call(hidden("net"), mine, (X,))
    assert changes(before, snapshot([HIDDEN["net"]], [])) == []


def test_a_compiled_model_is_no_warning():
    net = torch.compile(seeded_net(), backend="eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = snapshot([net], [optimizer])
    with untouched([optimizer]):
        stepping(net, optimizer)((X, Y))
    assert changes(before, snapshot([net], [optimizer])) == []


def test_the_caller_keeps_no_variable_for_longer():
    class Large:
        pass

    gone, large = [], Large()
    weakref.finalize(large, gone.append, 1)
    with untouched([torch.optim.SGD([nn.Parameter(torch.ones(1))])]):
        pass
    del large
    assert gone == [1]


def local(modules, optimizers):
    """What a training changes, of sharded tensors this rank's shards."""

    def shard(tensor):
        return plain(tensor.to_local()) if hasattr(tensor, "to_local") else plain(tensor)

    parts = [part for module in modules for part in module.modules()]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    return {
        "weights": [shard(p) for p in parameters],
        "gradients": [None if p.grad is None else (id(p.grad), shard(p.grad)) for p in parameters],
        "buffers": [(name, id(b), plain(b)) for module in modules for name, b in module.named_buffers()],
        "modes": [part.training for part in parts],
        "state": [
            {name: shard(value) for name, value in optimizer.state[p].items()}
            for optimizer in optimizers
            for p in parameters
        ],
    }


def sharded_block(rank, world, folder):
    """On a rank: a block over a model that FSDP shards, with its modules given and not, before and after an update."""
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    cases = itertools.product((torch.optim.AdamW, functools.partial(torch.optim.SGD, momentum=0.9)), (0, 1), (0, 1))
    for make, given, warm in cases:
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        for part in (net[0], net):
            fully_shard(part, mesh=mesh)
        optimizer = make(net.parameters(), lr=0.1)
        step = stepping(net, optimizer)
        if warm:
            step((X, Y))
        with torch.no_grad():  # which leaves the parameters of the root gathered
            expected = net.eval()(X)
        net.train()
        if not warm:
            net.reshard()
        before = local([net], [optimizer])
        with untouched([optimizer], [net] if given else None):
            for _ in range(2):
                step((X, Y))
            net.eval()
            with torch.no_grad():
                net(X)
            assert set(changes(before, local([net], [optimizer]))) == {*before}
        assert changes(before, local([net], [optimizer])) == []
        with torch.no_grad():
            assert torch.equal(net.eval()(X), expected), "the next forward is with the weights that were put back"
    dist.destroy_process_group()
    print("as before")


def test_what_fsdp_shards_is_put_back_shard_by_shard(tmp_path):
    code = "import sys; sys.path[:0] = {}; import test_reachable; test_reachable.sharded_block({}, 2, {!r})"
    here = Path(__file__).parent
    paths = [str(here), str(here.parent)]
    ranks = [
        forked.Popen(["-c", code.format(paths, rank, str(tmp_path))], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    assert [rank.communicate()[0].strip() for rank in ranks] == ["as before"] * 2
