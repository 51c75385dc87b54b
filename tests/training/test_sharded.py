"""Models in shards, on real processes: as one that is whole, and saved and restored for any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks_makers import on_ranks
from torch import nn

from onecycle import ConfigError
from onecycle.models.transformer import char_transformer
from onecycle.training.ranks import Ranks
from onecycle.training.sharded import _check, blocks_of, shard

# What the code of each rank begins with: a state in shards, and the same one whole.
BEGIN = """
import torch
from dataclasses import replace
from torch import nn
from torch.distributed.tensor import DTensor
from onecycle import Runtime, TrainState
from onecycle.models.transformer import char_transformer
from onecycle.training.ranks import Ranks
from onecycle.training.copies import outline
from onecycle.training.sharded import local, shard
from onecycle.training.rescue import Watch

torch.set_num_threads(1)
ranks = Ranks.join("gloo", 60)
said = []
CPU = torch.device("cpu")
SGD = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)
ADAMW = lambda params: torch.optim.AdamW(params, lr=0.01, eps=1e-3)  # or noise is all that biases of keys go by

def network(seed=0):
    torch.manual_seed(seed)
    return char_transformer(input_shape=(8,), classes=7, width=12, depth=3, heads=2)

class Trained:
    \"\"\"A state that is trained by hand, on the part of each batch that this rank has where it is to share.\"\"\"
    def __init__(self, make=ADAMW, shared=True, model=None, clip=None, **options):
        self.model = network() if model is None else model
        self.shared = shared
        if shared:
            shard(ranks, CPU, self.model)
        runtime = replace(Runtime(CPU, **options.pop("runtime", {})), ranks=ranks)
        self.state = TrainState(self.model, make(self.model.parameters()), self.loss, runtime, clip=clip, **options)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten())

    def update(self, k=0, accumulate=1):
        scale = self.state.scaler.scale if self.state.scaler else lambda loss: loss
        self.state.optimizer.zero_grad()
        for i in range(accumulate):
            batch = torch.randint(0, 7, (12, 8), generator=torch.Generator().manual_seed(100 * k + i))
            part = batch.tensor_split(ranks.world)[ranks.rank] if self.shared else batch
            scale(self.loss(self.model, part) * (len(part) / len(batch) / accumulate)).backward()
        if self.state.scaler:
            self.state.scaler.unscale_(self.state.optimizer)
        if self.state.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.state.clip)
        if self.state.scaler:
            self.state.scaler.step(self.state.optimizer), self.state.scaler.update()
        else:
            self.state.optimizer.step()
        self.state.at.step += 1
        self.state.follow()
        return self

def numbers(state, prefix=""):
    \"\"\"All tensors of a state by their place.\"\"\"
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {name: t for key, part in parts for name, t in numbers(part, f"{prefix}/{key}").items()}

def alike(one, other, tolerance=0.0):
    \"\"\"Where two states differ by more; also in their places, shapes and types.\"\"\"
    a, b = numbers(one), numbers(other)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    form = lambda t: (t.shape, t.dtype, type(t))
    assert all(form(a[name]) == form(b[name]) for name in a)
    return all(torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance) for name in a)
"""

MAKERS = "SGD", "ADAMW"


def ranks(code: str, world: int = 2) -> list[Any]:
    return on_ranks(BEGIN + code, world)


@pytest.mark.parametrize("world", [2, 3])
def test_updates_are_those_of_a_whole_model_but_for_rounding(world):
    said = ranks(
        """
for make, options, times in ((SGD, {"clip": 0.1, "average": 0.9}, 1), (ADAMW, {"clip": 0.1}, 2), (ADAMW, {}, 1)):
    one, other = Trained(make, **options), Trained(make, shared=False, **options)
    for k in range(4):
        one.update(k, times), other.update(k, times)
    saved = one.state.state_dict()
    if ranks.is_main:
        assert alike(saved, other.state.state_dict(), 1e-5), options
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in numbers(saved).values()), "no padding"
    else:
        assert all(t.is_meta for t in numbers(saved).values())
    assert all(isinstance(p, DTensor) for p in one.model.parameters())
    here, all_of = (sum(local(p).numel() for p in trained.model.parameters()) for trained in (one, other))
    assert here < all_of * (1 / ranks.world + 0.1)
result("done")
""",
        world,
    )
    assert said == ["done"] * world


GO_ON = """
path = {path!r}
one = Trained(make={make}, model=network(seed={seed}), shared={shared}, average=0.9, runtime={{"precision": "fp16"}})
if {load}:
    saved = torch.load(path, weights_only=True)
    one.state.load_state_dict(saved if ranks.is_main else outline(saved))
for k in range({first}, {last}):
    one.update(k)
    if k == 0:
        one.state.watch = one.state.watch or Watch(1.0)
        one.state.keep(proven=True)
        one.state.best = {{"step": 1, "epoch": 0, "valid": {{"loss": 1.0}}, "modules": [
            {{name: t.clone() for name, t in one.model.state_dict().items()}}]}}
saved = one.state.state_dict()
if ranks.is_main:
    torch.save(saved, path)
"""


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_goes_on_in_the_shards_of_any_number_of_ranks(make, tmp_path):
    def go(name: str, world: int, first: int, last: int, seed: int, load: str | None = None) -> dict:
        path = tmp_path / name
        if load:
            path.write_bytes((tmp_path / load).read_bytes())
        code = GO_ON.format(
            path=str(path), make=make, seed=seed, shared=world > 1, load=bool(load), first=first, last=last
        )
        ranks(code, world)
        return torch.load(path, weights_only=True)

    whole = go("whole", 1, 0, 6, 0)
    straight = go("straight", 2, 0, 6, 0)
    begun = go("begun", 2, 0, 3, 0)
    again = go("again", 2, 3, 6, 5, load="begun")
    assert differing(straight, again) == [], "to the bit"
    for world in (1, 3):
        other = go(f"on {world}", world, 3, 6, 5, load="begun")
        assert differing(whole, other, 1e-5) == []
    go("of one", 1, 0, 3, 0)
    assert differing(whole, go("of one on two", 2, 3, 6, 5, load="of one"), 1e-5) == []
    assert len(begun["rescue"]["kept"]) == 1 and begun["best"]["modules"] and begun["averages"]


def differing(one, other, tolerance: float = 0.0, place: str = "") -> list[str]:
    """The places at which two structures differ; tensors and numbers by more than a tolerance."""
    if isinstance(one, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return [] if same and torch.allclose(one, other, rtol=tolerance, atol=tolerance) else [place]
    if isinstance(one, dict):
        assert list(one) == list(other), place
        return [found for name in one for found in differing(one[name], other[name], tolerance, f"{place}/{name}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), place
        pairs = zip(one, other, strict=True)
        return [found for i, (a, b) in enumerate(pairs) for found in differing(a, b, tolerance, f"{place}/{i}")]
    return [] if one == other or (tolerance and one == pytest.approx(other, rel=tolerance)) else [place]


def test_what_is_kept_and_averaged_comes_back_in_shards():
    said = ranks(
        """
one, other = Trained(average=0.9, rescue=True), Trained(average=0.9, shared=False)
for trained in (one, other):
    trained.update(0)
    trained.state.watch = Watch(1.0)
    trained.state.keep(proven=True)
before = one.state.state_dict()
for trained in (one, other):
    trained.update(1), trained.update(2)
assert any(isinstance(value, DTensor) for value in one.state.kept[0].modules[0].values())
with one.state.averaged(), other.state.averaged():
    averaged = one.state.state_dict()["model"]
    assert not ranks.is_main or alike(averaged, other.model.state_dict(), 1e-5)
one.state.go_back()
after = one.state.state_dict()
if ranks.is_main:
    assert alike(before["model"], after["model"]) and alike(before["optimizer"], after["optimizer"])
one.update(1), other.state.go_back(), other.update(1)
one.state.take_averages(), other.state.take_averages()
last = one.state.state_dict()
assert not ranks.is_main or alike(last["model"], other.model.state_dict(), 1e-5)
result("done")
"""
    )
    assert said == ["done"] * 2


def test_a_weight_that_is_not_finite_on_one_rank_is_found_on_all():
    said = ranks(
        """
from onecycle.errors import NonFiniteLoss
from onecycle.training.rescue import is_dead
one = Trained().update()
one.state.check_finite()
gradients = [p.grad for p in one.model.parameters()]
assert not is_dead(one.model.parameters())
for gradient in gradients:
    local(gradient).zero_()
assert is_dead(one.model.parameters())
if ranks.rank == 2:
    [local(gradient).fill_(1e-30) for gradient in gradients]
said.append(is_dead(one.model.parameters()))
if ranks.rank == 2:
    with torch.no_grad():
        local(one.model.head.weight)[0, 0] = float("nan")
try:
    one.state.check_finite()
except NonFiniteLoss as error:
    said.append(str(error))
result(said)
""",
        3,
    )
    assert said[0] == said[1] == said[2] and said[0][0] is False and "non-finite weights in head.weight" in said[0][1]


def test_gradients_that_overflow_on_one_rank_skip_the_update_on_all():
    said = ranks(
        """
one = Trained(runtime={"precision": "fp16"}).update()
before, scaler = one.state.state_dict(), one.state.scaler
scale = scaler.get_scale()
one.state.optimizer.zero_grad()
scaler.scale(one.loss(one.model, torch.zeros(2, 8, dtype=torch.int64))).backward()
if ranks.rank == 1:
    local(one.model.head.weight.grad)[0, 0] = float("inf")
scaler.step(one.state.optimizer), scaler.update()
after = one.state.state_dict()
assert not ranks.is_main or alike(before["model"], after["model"])
result(scaler.get_scale() / scale)
"""
    )
    assert said == [0.5] * 2


def test_an_update_that_was_tried_leaves_no_trace():
    said = ranks(
        """
from onecycle.training.restore import untouched
one, other = Trained(), Trained()
for trained in (one, other):
    trained.update(0)
with untouched([one.state.optimizer], one.state.modules):
    one.update(1), one.update(2)
one.update(3), other.update(3)
a, b = one.state.state_dict(), other.state.state_dict()
assert not ranks.is_main or alike(a["model"], b["model"]) and alike(a["optimizer"], b["optimizer"])
result("done")
"""
    )
    assert said == ["done"] * 2


def test_a_foreign_state_is_refused_on_all_ranks_and_changes_nothing():
    said = ranks(
        """
from onecycle import CheckpointError
one = Trained(SGD).update()
before = one.state.state_dict()
wide = char_transformer(input_shape=(8,), classes=9, width=12, depth=3, heads=2)
for foreign in (Trained(SGD, model=wide), Trained(ADAMW).update()):
    saved = foreign.state.state_dict()
    try:
        one.state.load_state_dict(saved)
    except CheckpointError as error:
        said.append(str(error)[:60])
    after = one.state.state_dict()
    assert not ranks.is_main or all(alike(before[part], after[part]) for part in ("model", "optimizer"))
one.update(1)
result(said)
"""
    )
    assert said[0] == said[1] and str(said[0]).count("this state is of another model or optimizer") == 2


def test_a_pass_that_fails_or_is_not_differentiated_leaves_no_trace():
    said = ranks(
        """
one, other = Trained(), Trained()
for trained in (one, other):
    trained.update(0)
try:
    one.model(torch.full((2, 8), 99))
except IndexError:
    assert all(isinstance(p, DTensor) for p in one.model.parameters())
one.loss(one.model, torch.zeros(2, 8, dtype=torch.int64))
with torch.no_grad():
    one.model(torch.zeros(2, 8, dtype=torch.int64))
one.update(1), other.update(1)
a, b = one.state.state_dict(), other.state.state_dict()
assert not ranks.is_main or alike(a["model"], b["model"])
result("done")
"""
    )
    assert said == ["done"] * 2


def test_shared_weights_views_in_place_and_modules_used_twice_are_as_in_a_whole_model():
    said = ranks(
        """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.head = nn.Linear(8, 7)
        self.head.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x = self.embedding(x)
        for layer in (*self.layers, *self.layers):  # of three dimensions: what a linear layer gives is a view
            x = layer(x)
            x += 1.0
            x = x.relu_()
        return self.head(x)

def tied():
    torch.manual_seed(ranks.rank)  # the main rank's are taken
    return Tied()

one = Trained(model=tied())
torch.manual_seed(0)
other = Trained(model=Tied(), shared=False)
for k in range(3):
    one.update(k), other.update(k)
saved = one.state.state_dict()
if ranks.is_main:
    assert alike(saved["model"], other.state.state_dict()["model"], 1e-5)
    assert saved["model"]["head.weight"] is saved["model"]["embedding.weight"]
    assert len(saved["optimizer"]["state"]) == 8
one.state.load_state_dict(saved)
assert one.model.head.weight is one.model.embedding.weight
result([type(one.model).__name__, type(one.model.layers[0]).__name__, type(one.model.embedding).__name__])
"""
    )
    assert said == [["Tied", "Linear", "Embedding"]] * 2


def test_parameters_of_a_loss_and_an_optimizer_that_was_given_are_in_shards_too():
    said = ranks(
        """
torch.manual_seed(0)
model, criterion = network(), nn.Linear(7, 7)
optimizer = ADAMW([*model.parameters(), *criterion.parameters()])
shard(ranks, CPU, model, criterion, optimizer=optimizer)
assert all(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])
x = torch.zeros(2, 8, dtype=torch.int64)
criterion(model(x)).sum().backward()
optimizer.step()
result([len(optimizer.state), [p.grad is None for p in criterion.parameters()]])
"""
    )
    assert said == [[43, [False, False]]] * 2


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyLinear(4), nn.Linear(4, 2))


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Lazy, "0.weight, which gets its shape from the first batch, .*call the model on a batch first"),
        (Scalar, r"Scalar has scale without a dimension, .*make it of shape \[1\]"),
        (
            lambda: nn.Linear(4, 1),
            "Linear of 5 parameters is too small for 2 ranks: .*use fewer ranks; or leave out shard",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double()),
            "are float32 and float64, and shard takes one",
        ),
        (lambda: nn.Embedding(8, 4, sparse=True), "the gradients of Embedding are sparse"),
        (lambda: nn.Linear(4, 4, device="meta"), "weight on the meta device"),
        (nn.ReLU, "too small"),
    ],
)
def test_what_cannot_be_sharded_is_refused_in_words(model, says):
    with pytest.raises(ConfigError, match=says):
        _check(model(), 2)


def test_one_rank_has_nothing_to_share():
    with pytest.raises(ConfigError, match=r"one alone: start them with torchrun --nproc-per-node=N .* or leave it out"):
        shard(Ranks(), torch.device("cpu"), nn.Linear(4, 4))


def test_blocks_are_members_of_lists_that_are_called_and_share_nothing():
    model = char_transformer(input_shape=(8,), classes=7, width=12, depth=3, heads=2)
    assert blocks_of(model) == list(model.blocks)
    body, head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4)
    assert blocks_of(nn.Sequential(body, head)) == [body[0], body[2], head]  # most of the weights are in the body
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert blocks_of(encoder) == list(encoder.layers), "attention uses the weights of its parts without calling them"
    nested = nn.ModuleList([nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleList([nn.Linear(8, 8)])])
    assert blocks_of(nested) == [nested[0][0], nested[1][0]], "a list has no forward of its own"
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    assert blocks_of(tied) == [tied[1]]
    again = nn.Linear(8, 8)
    twice = nn.Sequential(nn.Sequential(again, nn.Linear(8, 8)), nn.Sequential(again, nn.ReLU()))
    assert blocks_of(twice) == [twice[0][1]], "what is within two others is gathered with the rest"
