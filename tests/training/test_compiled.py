"""The model through torch.compile: what is compiled, how often, and what CUDA graphs ask of an update."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from training_makers import blobs, differing, seeded_net, weights

from onecycle import ConfigError, Learner
from onecycle.data.batches import LoaderBatches, TensorBatches
from onecycle.models import build
from onecycle.optim.muon import Muon
from onecycle.training.compiled import compiled
from onecycle.training.runtime import Runtime
from onecycle.training.state import TrainState
from onecycle.training.step import update

CPU = Runtime.choose("cpu")


@pytest.fixture(autouse=True)
def with_tools(request, monkeypatch):
    """As if there were a compiler and Triton, but where that matters."""
    if "compiler" not in request.node.name and "this_machine" not in request.node.name:
        monkeypatch.setattr("onecycle.training.compiled._check_tools", lambda device: None)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile would make code of; they are run as they are."""
    made, compiler = [], torch.compile
    torch.compiler.reset()

    def counted(graph, inputs):
        made.append(graph)
        return graph.forward

    def taken(model, mode=None, **options):
        return compiler(model, backend=counted, **options)

    monkeypatch.setattr(torch, "compile", taken)
    yield made
    torch.compiler.reset()


def learner(model: nn.Module | None = None, **options) -> Learner:
    """Batches of 15 and of 14 samples."""
    given = {"batch_size": 16, "verbose": False, "optimizer": "sgd", **options}
    return Learner(seeded_net(dropout=0.0) if model is None else model, blobs(44), **given)


def test_each_size_of_a_batch_is_compiled_once_whatever_the_learning_rate(graphs):
    learn, plain = learner(compile="reduce-overhead", clip=1.0), learner(clip=1.0)
    assert {len(x) for x, _ in learn.train.epoch(0)} == {14, 15}
    learn.fit(4, "one_cycle", 0.1)
    plain.fit(4, "one_cycle", 0.1)
    assert len(graphs) == 2 and differing(weights(learn.model), weights(plain.model)) == []
    learn.fit(2, "cosine", 0.05)
    assert len(graphs) == 2


def test_a_model_with_other_weights_is_not_compiled_again(graphs):
    model = seeded_net(dropout=0.0)
    for _ in range(2):
        model.load_state_dict(seeded_net(dropout=0.0).state_dict())
        learner(model, compile=True).fit(1, "one_cycle", 0.1)
    assert len(graphs) == 2


def test_batches_of_any_shape_are_not_compiled_one_by_one(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: calls.append(options))
    net = seeded_net()
    for batches in (TensorBatches(blobs(8), 4), LoaderBatches([blobs(8)])):
        compiled(net, torch.optim.SGD(net.parameters()), True, batches, CPU)
    assert calls == [{"dynamic": False}, {}]


def test_muons_products_go_with_the_model_where_graphs_are_replayed(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda made, **options: calls.append((made, options)))
    net, cuda = seeded_net(), Runtime(torch.device("cuda"))
    muon = Muon([{"params": [net[2].weight], "momentum": 0.8}])
    sgd, batches = torch.optim.SGD(net.parameters()), LoaderBatches([blobs(8)])
    for optimizer, mode, runtime in (
        (sgd, "reduce-overhead", cuda), (muon, True, cuda), (muon, "max-autotune-no-cudagraphs", cuda),
        (muon, "reduce-overhead", CPU),
    ):  # fmt: skip
        compiled(net, optimizer, mode, batches, runtime)
    assert len(calls) == 4 and all(made is net for made, _ in calls)
    compiled(net, muon, "max-autotune", batches, cuda)
    assert calls[4][1] == {"mode": "max-autotune", "fullgraph": True, "dynamic": False} and calls[5][0] is net


def test_muons_products_are_one_graph_that_is_compiled_once(graphs):
    model, other = (build("resnet9", input_shape=(3, 8, 8), classes=10) for _ in range(2))
    made = []
    for net in (model, other):
        matrices = [p for p in net.parameters() if p.ndim > 1]
        made.append(
            (matrices, Muon([{"params": matrices[:3], "momentum": 0.8}, {"params": matrices[3:], "momentum": 0}]))
        )
    made[0][1].compile()
    for step in range(3):
        for matrices, optimizer in made:
            generator = torch.Generator().manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"], group["momentum"] = 0.1 / (step + 1), 0.5 + 0.1 * step
            for p in matrices:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    assert len(graphs) == 1
    assert differing(weights(model), weights(other)) == []


def test_losses_outlast_the_graphs_that_made_them(monkeypatch):
    steps, given = [], []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(len(given)))
    learn = learner(accumulate=2)

    def loss(model, batch):
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        given.append(value)
        return value, {"twice": 2 * value}

    learn.state.loss = loss
    group = [*learn.train.epoch(0)]
    for may, size in ((False, 1), (True, 1), (True, 2)):
        monkeypatch.setattr(TrainState, "may_replay", may)
        made = update(learn.state, group[:size])
        memory = {t.untyped_storage().data_ptr() for t in given}
        assert (made.loss.untyped_storage().data_ptr() in memory) is not may
    assert steps == [1, 2], "a step begins with an update, and not with each of its batches"
    monkeypatch.undo()
    assert not learn.state.may_replay


def test_no_gradient_is_added_to_in_the_memory_of_graphs(monkeypatch):
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    monkeypatch.setattr(TrainState, "may_replay", True)
    model = seeded_net(dropout=0.0)
    learn = learner(model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.0))
    batch = next(learn.train.epoch(0))
    gradients = []
    for _ in range(2):
        update(learn.state, [batch])
        gradients.append(model[0][0].weight.grad.clone())
    assert gradients[0].any() and torch.equal(*gradients)


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "no-such-compiler --fast"])
def test_without_a_compiler_it_is_refused(compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(
        ConfigError, match=rf"there is no {compiler} here: install one, name another in the variable CXX"
    ):
        learner(compile=True)
    monkeypatch.setattr("onecycle.training.compiled.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="Triton, which is not installed"):
        compiled(nn.Linear(1, 1), None, True, None, Runtime(torch.device("cuda")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_a_model_that_is_compiled_for_this_machine_trains():
    learn = learner(compile="reduce-overhead", batch_size=11)
    plain = learner(batch_size=11)
    for one in (learn, plain):
        one.fit(3, "one_cycle", 0.1)
    for name, tensor in weights(plain.model).items():
        torch.testing.assert_close(learn.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert learn.state.forward is not learn.model and learn.evaluate(blobs(44))["accuracy"] > 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"optimizer": "muon"}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("inside", [False, True], ids=["loss outside", "loss inside"])
def test_on_cuda_replayed_graphs_train_as_the_model_itself(options, inside):
    def loss(model, batch):
        return model(*batch)

    class WithLoss(nn.Module):
        """Gives its loss, which is memory of the graph then."""

        def __init__(self):
            super().__init__()
            self.body = seeded_net(dropout=0.0)

        def forward(self, x, y):
            return nn.functional.cross_entropy(self.body(x), y)

    losses = []
    for compile in (False, "reduce-overhead"):
        with_loss = {"model": WithLoss(), "loss": loss} if inside else {}
        learn = learner(compile=compile, device="cuda", **{**options, **with_loss})
        learn.fit(40, "one_cycle", 0.02)
        losses.append([row["loss"] for row in learn.history.steps])
        learn.range_test()  # which puts back gradients that graphs have overwritten
        learn.fit(1, "one_cycle", 0.02)
    assert len(losses[0]) > 50, "losses are read 50 updates after the graph that made them"
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-2, atol=1e-3)
