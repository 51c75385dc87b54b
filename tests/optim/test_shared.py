"""Muon on several ranks beside Muon on one: who makes what, and that all have the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks_makers import on_ranks

from onecycle.optim.orthogonal import products_of_orthogonal
from onecycle.optim.shared import UNEVEN, assigned, worth_sharing

START = """
import hashlib
import torch
import torch.distributed as dist
from torch import nn
from onecycle.optim import shared
from onecycle.optim.muon import Muon

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
shared.PRODUCTS_A_BYTE["cpu"], shared.PRODUCTS_A_GATHER["cpu"] = 0.0, -1.0  # all is shared

def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def digest(tensors):
    parts = [t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]
    return hashlib.sha256(b"".join(parts)).hexdigest()

def counted(optimizer):
    # how many matrices are made orthogonal in each step
    made, products = [], optimizer._orthogonal
    optimizer._orthogonal = lambda averages: made.append(len(averages)) or products(averages)
    return made
"""
END = "\ndist.destroy_process_group()\n"


def told(code: str, world: int) -> list[Any]:
    """What each rank gave to `result`."""
    return on_ranks(START + code + END, world)


WEIGHTS = """
SHAPES = [(6, 4), (4, 6), (5, 7), (8, 3, 3, 3), (1, 7), (7, 1), (4, 3, 2), (6, 4), (20, 20), (20, 20), (130, 150)]

def weights():
    made = [numbers(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    made += [numbers(12, 9).bfloat16(), numbers(140, 130).bfloat16(), numbers(9, 10).half(), torch.zeros(0, 3)]
    made += [numbers(9, 11, dtype=torch.float64), numbers(6, 5, dtype=torch.complex64), numbers(7)]
    return [nn.Parameter(weight) for weight in made]

def muon(weights):
    matrices = [w for w in weights if w.ndim > 1]
    return Muon([
        {"params": matrices[:5], "momentum": 0.8, "weight_decay": 0.1}, {"params": matrices[5:], "momentum": 0.6},
        {"params": [w for w in weights if w.ndim < 2]},
    ], lr=0.05)

def train(optimizer, weights, seeds):
    for seed in seeds:
        for i, w in enumerate(weights):
            gradient = numbers(*w.shape, seed=100 * seed + i, dtype=torch.complex128).real.to(w.dtype)
            w.grad = None if (i + seed) % 4 == 0 else gradient
        optimizer.step()
"""


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_share_the_matrices_have_the_weights_and_state_of_one(world):
    code = """
ours, alone = weights(), weights()
optimizer, other = muon(ours), muon(alone)
optimizer.share(dist.group.WORLD)
made, of_one = counted(optimizer), counted(other)
train(optimizer, ours, range(1, 4))
train(other, alone, range(1, 4))
for a, b in zip(ours, alone):
    torch.testing.assert_close(a, b, rtol=1e-5 if a.dtype != torch.bfloat16 else 0.02, atol=1e-5)
torch.testing.assert_close(optimizer.state_dict(), other.state_dict(), rtol=0, atol=0)
optimizer.share(None)
train(optimizer, ours, [4])
train(other, alone, [4])
result([digest(ours), made, of_one])
"""
    digests, made, of_one = zip(*told(WEIGHTS + code, world), strict=True)
    assert len(set(digests)) == 1, "the same on all ranks, to the bit"
    *steps, last = zip(*made, strict=True)
    assert [*map(sum, steps)] == of_one[0][:-1] and 0 not in sum(steps, ()), "each matrix is made once"
    assert {*last} == {of_one[0][-1]}, "they are not shared any more"


def test_fewer_matrices_than_ranks_and_what_is_not_worth_sharing():
    code = """
def step(shapes):
    weights = [nn.Parameter(numbers(*shape, seed=i)) for i, shape in enumerate(shapes)]
    optimizer = Muon([{"params": weights, "momentum": 0.9}])
    optimizer.share(dist.group.WORLD)
    made = counted(optimizer)
    for i, w in enumerate(weights):
        w.grad = numbers(*w.shape, seed=9 + i)
    optimizer.step()
    return digest(weights), sum(made)

two, one, none = step([(30, 30), (30, 40)]), step([(5, 4)]), step([])
# What a square matrix in float32 with sides of 10 takes.
shared.PRODUCTS_A_BYTE["cpu"], shared.PRODUCTS_A_GATHER["cpu"] = 18 * 10 / 4, -1e9
some = step([(9, 9), (12, 12), (13, 13), (9, 9)])
shared.PRODUCTS_A_GATHER["cpu"] = 1e9
alone = step([(9, 9), (12, 12), (13, 13), (9, 9)])
result([two, one, none, some, alone])
"""
    cases = [*zip(*told(code, 3), strict=True)]
    for ranks in cases:
        assert len({digest for digest, _ in ranks}) == 1
    made = [sorted(number for _, number in ranks) for ranks in cases]
    assert made == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [2, 3, 3], [4, 4, 4]]
    assert cases[3][0][0] == cases[4][0][0]


@pytest.mark.parametrize("fast", [[True, True], [True, False]], ids=str)
def test_directions_travel_in_bfloat16_where_all_ranks_compute_in_it(fast):
    code = f"""
from onecycle.optim import orthogonal
orthogonal.fast_in_half = shared.fast_in_half = lambda device: {fast}[rank]
weights = [nn.Parameter(numbers(128, 140, seed=i)) for i in range(2)]
optimizer = Muon([{{"params": weights, "momentum": 0.9}}])
optimizer.share(dist.group.WORLD)
sizes, gather = [], dist.all_gather_into_tensor
dist.all_gather_single = lambda out, given, group: sizes.append(given.numel()) or gather(out, given, group=group)
for i, w in enumerate(weights):
    w.grad = numbers(*w.shape, seed=9 + i)
optimizer.step()
result([digest(weights), sizes])
"""
    first, second = told("import warnings; warnings.simplefilter('ignore')\n" + code, 2)
    assert first == second and first[1] == [128 * 140 * (2 if all(fast) else 4)]


def test_a_shared_part_is_compiled():
    code = """
ours, plain = ([nn.Parameter(numbers(8, n, seed=n)) for n in (8, 9, 10)] for _ in range(2))
optimizers = [Muon([{"params": some, "momentum": 0.9}]) for some in (ours, plain)]
for optimizer in optimizers:
    optimizer.share(dist.group.WORLD)
graphs = []
optimizers[0].compile(backend=lambda graph, inputs: graphs.append(len(inputs)) or graph.forward)
for seed in range(3):
    for some, optimizer in zip((ours, plain), optimizers):
        for w in some:
            w.grad = numbers(*w.shape, seed=seed)
        optimizer.step()
result([digest(ours), digest(plain), graphs])
"""
    first, second = told(code, 2)
    assert len({first[0], first[1], second[0], second[1]}) == 1
    assert sorted(first[2] + second[2]) == [1, 2], "one graph a rank, of its part"


NET = """
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

WHOLE = StateDictOptions(full_state_dict=True)

def net(mesh=None):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Unflatten(1, (1, 7)), nn.Conv1d(1, 3, 2), nn.Flatten(),
        nn.Linear(18, 140), nn.Linear(140, 130), nn.Linear(130, 2),
    )
    if mesh is not None:
        for layer in [*model[:2], *model[6:], model]:
            fully_shard(layer, mesh=mesh)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "momentum": 0.8, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.1}]
    return model, Muon(groups, lr=0.02)

def train(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        model(numbers(4, 5, seed=seed)).square().mean().backward()
        optimizer.step()

def full(model):
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
"""


@pytest.mark.parametrize("world", [2, 3])
def test_sharded_parameters_move_as_whole_ones_and_their_state_is_moved_by_torch(world):
    code = """
def state_of(model, optimizer):
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)["state"]

def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-3)  # some are computed in bfloat16

whole, one = net()
model, ours = net(init_device_mesh("cpu", (world,)))
made = counted(ours)
train(whole, one, range(3))
train(model, ours, range(3))
for a, b in zip(full(model), whole.parameters()):
    close(a, b)
close(state_of(model, ours), state_of(whole, one))
kinds = sorted({type(x).__name__ for state in ours.state.values() for k, x in state.items() if k != "step"})
again, theirs = net(init_device_mesh("cpu", (world,)))
again.load_state_dict(model.state_dict())
set_optimizer_state_dict(again, theirs, get_optimizer_state_dict(whole, one, options=WHOLE), options=WHOLE)
torch.testing.assert_close(state_of(again, theirs), state_of(whole, one), rtol=0, atol=0)
train(whole, one, [3])
train(again, theirs, [3])
for a, b in zip(full(again), whole.parameters()):
    close(a, b)
result([digest(full(model)), made, kinds])
"""
    digests, made, kinds = zip(*told(NET + code, world), strict=True)
    assert len(set(digests)) == 1
    assert all(sum(step) == 5 and max(step) < 5 for step in zip(*made, strict=True)), "each of five by one rank"
    assert kinds[0] == ["DTensor"]


def test_shards_that_lie_in_other_ways():
    code = """
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

flat = init_device_mesh("cpu", (world,))
wide, tall = init_device_mesh("cpu", (1, world)), init_device_mesh("cpu", (world, 1))
layouts = [
    (flat, [Shard(1)]), (flat, [Replicate()]), (wide, [Replicate(), Shard(0)]), (tall, [Replicate(), Shard(0)]),
    (wide, [Shard(0), Shard(1)]), (tall, [Shard(1), Shard(0)]), (flat, [Shard(0)]), None,
]
plain = [nn.Parameter(numbers(5, 8, seed=i)) for i in range(len(layouts))]
ours = [
    nn.Parameter(distribute_tensor(p.detach(), *layout) if layout else p.detach().clone())
    for p, layout in zip(plain, layouts)
]
one, optimizer = (Muon([{"params": some, "momentum": 0.9, "weight_decay": 0.1}]) for some in (plain, ours))
optimizer.share(dist.group.WORLD)
for seed in range(2):
    for i, (p, q, layout) in enumerate(zip(plain, ours, layouts)):
        p.grad = numbers(5, 8, seed=10 * seed + i)
        q.grad = distribute_tensor(p.grad, *layout) if layout else p.grad.clone()
    ours[0].grad = ours[0].grad.redistribute(placements=[Replicate()])  # laid out in another way than its parameter
    one.step()
    optimizer.step()
for p, q in zip(plain, ours):
    torch.testing.assert_close(q.full_tensor() if hasattr(q, "full_tensor") else q, p)
result(digest([q.full_tensor() if hasattr(q, "full_tensor") else q for q in ours]))
"""
    assert len(set(told(NET + code, 2))) == 1


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30)


@given(SIZES, st.integers(1, 5))
def test_each_matrix_has_one_rank_and_no_rank_much_more_than_the_others(sizes, world):
    matrices = [empty(*shape) for shape in sizes]
    parts, costs = assigned(matrices, world), [products_of_orthogonal(shape) for shape in sizes]
    assert sorted(i for part in parts for i in part) == [*range(len(sizes))] and len(parts) == world
    loads = [sum(costs[i] for i in part) for part in parts]
    assert max(loads) <= (1 + UNEVEN) * (sum(costs) / world + max(costs, default=0))


def test_matrices_of_one_shape_stay_together_where_that_is_even():
    square, wide = [empty(20, 20)] * 4, [empty(20, 21)] * 4
    assert assigned(square + wide, 2) == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert sorted(map(len, assigned(square * 3, 2))) == [6, 6]
    assert assigned([empty(9, 8)], 3) == [[0], [], []]


def test_large_matrices_are_worth_sharing_and_small_ones_are_not():
    def shared(shapes: list[tuple[int, ...]], world: int = 2, dtype: torch.dtype = torch.float32) -> list[int]:
        tensors = [torch.empty(shape) for shape in shapes]
        return sorted(i for part in worth_sharing(tensors, [dtype] * len(tensors), world) for i in part)

    assert shared([(16, 16, 3, 3)] * 6 + [(64, 64, 3, 3)] * 6) == []
    assert shared([(512, 512)] * 4, dtype=torch.bfloat16) == [0, 1, 2, 3]
    assert shared([(64, 2048), (512, 512), (512, 512), (32, 32)]) == [1, 2]
    assert shared([(2048, 2048)]) == [], "one alone is made by every rank as soon as by one"
