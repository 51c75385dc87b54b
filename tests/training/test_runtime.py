"""Device, precision and the way of a batch to the device."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from onecycle import ConfigError, Runtime, Supervised, TrainState, preset, train
from onecycle.training import runtime as runtimes
from onecycle.training.runtime import generators

CPU = Runtime.choose("cpu")
META = Runtime(torch.device("meta"))
Pair = namedtuple("Pair", "x y")


class Own:
    def __init__(self, device: str = "cpu"):
        self.device = device

    def to(self, device):
        return Own(str(device))


def test_choices():
    assert (CPU.device.type, CPU.precision) == ("cpu", "fp32")
    assert Runtime.choose(torch.device("cpu"), "bf16").precision == "bf16"
    assert Runtime.choose().device.type in ("cuda", "mps", "cpu")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "cup"}, "cannot use the device 'cup'; here: cpu"),
        ({"device": "cuda:99"}, "cannot use the device 'cuda:99'; here: cpu"),
        ({"precision": "bf61"}, "unknown precision 'bf61': did you mean bf16"),
        ({"precision": 16}, "unknown precision 16: did you mean"),
    ],
)
def test_bad_choices(options, says):
    with pytest.raises(ConfigError, match=says):
        Runtime.choose(**{"device": "cpu", **options})


def test_the_device_of_a_model_is_that_of_its_first_parameter_or_buffer():
    assert Runtime.of(nn.Linear(2, 1), "bf16") == Runtime(torch.device("cpu"), "bf16")
    assert Runtime.of(nn.ReLU()).device.type == "cpu"
    mixed = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, device="meta"))
    assert Runtime.of(mixed).device.type == "cpu"
    normed = nn.BatchNorm1d(2, affine=False, device="meta")
    for model in (nn.Linear(2, 1, device="meta"), normed, nn.Sequential(*reversed(mixed))):
        with pytest.raises(ConfigError, match=r"is on the meta device, where weights have no values: .*to_empty"):
            Runtime.of(model)


def test_precision_of_a_forward_pass():
    layer, x = nn.Linear(2, 2), torch.zeros(1, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        runtime = Runtime.choose("cpu", precision)
        with runtime.autocast():
            assert layer(x).dtype == dtype
        assert (runtime.scaler() is not None) == (precision == "fp16")


def test_a_batch_moves_whole_however_deep_it_is():
    x = torch.zeros(2)
    moved = META.move({"a": [x, (x, "text", 3)], "pair": Pair(x, None), "own": SimpleNamespace(), "graph": Own()})
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == moved["pair"].x.device.type == "meta"
    assert moved["a"][1][1:] == ("text", 3) and moved["pair"].y is None and isinstance(moved["pair"], Pair)
    assert moved["graph"].device == "meta"


def test_what_is_there_is_not_copied():
    x = torch.zeros(2)
    assert CPU.move(x) is x and CPU.move([x])[0] is x


def test_a_packed_sequence_stays_one():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)])
    assert isinstance(CPU.move((packed, torch.zeros(2)))[0], nn.utils.rnn.PackedSequence)


def test_place_puts_convolutions_in_the_fast_format():
    model = nn.Conv2d(3, 4, 3)
    before = model.weight.detach().clone()
    Runtime(torch.device("cpu"), channels_last=True).place(model)
    assert model.weight.is_contiguous(memory_format=torch.channels_last) and torch.equal(model.weight, before)
    assert CPU.place(nn.Linear(2, 2)).weight.is_contiguous()


def test_a_state_in_training_lays_its_convolutions_out_as_its_runtime_says():
    images, labels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    trained = []
    for last in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        weight = model[0].weight
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        runtime = Runtime.of(model, channels_last=True) if last else None
        state = TrainState(model, sgd, Supervised(nn.functional.cross_entropy), runtime)
        for _ in train(state, [(images, labels)] * 3, "3 updates", preset("constant", 0.1)):
            assert model[0].weight is weight and weight.is_contiguous(memory_format=torch.channels_last) == last
        trained.append(weight.detach())
    assert torch.allclose(*trained, atol=1e-6)


def test_generators_of_the_cpu():
    assert generators(torch.device("cpu")) == [torch.default_generator]


@pytest.mark.parametrize(
    ("given", "said", "gpus", "device"),
    [
        (None, {"LOCAL_RANK": "1"}, 2, "cuda:1"),
        ("cuda", {"LOCAL_RANK": "0"}, 2, "cuda:0"),
        ("cuda:1", {"LOCAL_RANK": "1"}, 2, "cuda:1"),
        ("cpu", {"LOCAL_RANK": "1"}, 1, "cpu"),
        (None, {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "3"}, 1, "cuda:0"),  # each rank sees its own alone
        (None, {}, 4, "cuda:2"),  # as torch.cuda.set_device said
        (None, {"LOCAL_RANK": "1"}, 0, "cpu"),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(given, said, gpus, device, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert runtimes._of_local_rank(given) == device


def test_more_ranks_than_gpus_and_two_ranks_for_one_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    for here in ("", "2"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        with pytest.raises(ConfigError, match=r"2 ranks on this machine, and 1 GPU: start as many as there are"):
            runtimes._of_local_rank(None)
    ranks = SimpleNamespace(rank=0, gather=lambda mine: [mine, mine])
    with pytest.raises(ConfigError, match="ranks 0, 1 would share cuda:0 of"):
        runtimes._check_one_each.__wrapped__(ranks, torch.device("cuda:0"))
