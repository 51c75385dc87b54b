"""Matrices made orthogonal by several ranks: each makes a part of them, and gives what it made to the others.

Of tensors that every rank has whole, each rank makes its part, and one collective gathers them all. Of those whose
shards lie with the ranks (DTensors, as FSDP2 has them), one collective brings each rank the shards of its part, and
another takes each rank its shards of what was made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .orthogonal import alike, fast_in_half, is_narrow, matrix_shape, products_of_orthogonal

Products = Callable[[Sequence[Tensor]], Sequence[Tensor]]

# What a rank may do more than it need, for matrices that are multiplied together to stay together.
UNEVEN = 1 / 8
# The floating-point operations of products that last as long as a gather does for each byte, and as it does of nothing.
# In-sample: measured on two cores over gloo (bench/muon_ranks.py); those of CUDA are guesses from data sheets.
PRODUCTS_A_BYTE = {"cpu": 250.0, "cuda": 2000.0}
PRODUCTS_A_GATHER = {"cpu": 1e8, "cuda": 5e9}
ALIGNED = 16  # bytes: any type may begin there


class Piece(NamedTuple):
    """The shape and type of a tensor that is to come."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Holders(NamedTuple):
    """Who has a tensor: every rank on this device; for a DTensor the ranks of a mesh.

    They have its shards along one dimension of the mesh, or it is laid out in another way (None).
    """

    device: torch.device
    mesh: Any = None
    mesh_dim: int | None = None


class Sharing:
    """Who makes which matrices: those along the mesh of sharded ones, and for whole ones the ranks of `group`.

    Without a group each rank makes all whole ones by itself.
    """

    def __init__(self, group: Any = None):
        self.group = group
        self._half: dict[Any, bool] = {}
        self._plans: dict[Any, tuple[list[torch.dtype], list[list[int]]]] = {}

    def orthogonal(self, params: Sequence[Tensor], averages: Sequence[Tensor], products: Products) -> list[Tensor]:
        """What `products` makes of the averages of `params`, or of the shards of them that this rank has."""
        made = list(averages)
        kinds: dict[Holders, list[int]] = {}
        for i, p in enumerate(params):
            kinds.setdefault(_holders(p), []).append(i)
        for (_, mesh, mesh_dim), some in kinds.items():
            make = self._of_whole if mesh is None else _of_any if mesh_dim is None else self._of_shards
            for i, x in zip(some, make([params[i] for i in some], [averages[i] for i in some], products), strict=True):
                made[i] = x
        return made

    def _of_whole(self, params: list[Tensor], averages: list[Tensor], products: Products) -> Sequence[Tensor]:
        if self.group is None:
            return products(averages)
        types, parts = self._plan(params, self.group, all_of_them=False)
        mine = parts[self.group.rank()]
        alone = sorted({*range(len(params))}.difference(*parts))
        computed = [averages[i].to(types[i]) for i in mine] + [averages[i] for i in alone]
        made = [*products(computed)] if computed else []
        whole = dict(zip(alone, made[len(mine) :], strict=True))
        if any(parts):
            forms = [[Piece(params[i].shape, types[i]) for i in part] for part in parts]
            for part, some in zip(parts, _gathered(made[: len(mine)], forms, self.group, params[0]), strict=True):
                whole |= zip(part, some, strict=True)
        return [whole[i].to(averages[i].dtype) for i in range(len(params))]

    def _of_shards(self, params: list[Any], averages: list[Tensor], products: Products) -> list[Tensor]:
        _, mesh, mesh_dim = _holders(params[0])
        group = mesh.get_group(mesh_dim)
        types, parts = self._plan(params, group, all_of_them=True)
        mine, ranks = parts[group.rank()], range(group.size())
        dims = [p.placements[mesh_dim].dim for p in params]
        lengths = {i: shard_lengths(params[i].shape[dims[i]], len(ranks)) for i in mine}

        def form(i: int, holder: int) -> Piece:
            shape = params[i].shape
            return Piece((*shape[: dims[i]], lengths[i][holder], *shape[dims[i] + 1 :]), types[i])

        held = [[averages[i].to(types[i]) for i in part] for part in parts]
        came = _exchanged(held, [[form(i, holder) for i in mine] for holder in ranks], group, averages[0])
        whole = [torch.cat(shards, dims[i]) for i, *shards in zip(mine, *came, strict=True)]
        made = products(whole) if whole else []
        split = [x.split(lengths[i], dims[i]) for i, x in zip(mine, made, strict=True)]
        forms = [[Piece(averages[i].shape, types[i]) for i in part] for part in parts]
        came = _exchanged([[shards[holder] for shards in split] for holder in ranks], forms, group, averages[0])
        own = {i: x for part, some in zip(parts, came, strict=True) for i, x in zip(part, some, strict=True)}
        return [own[i].to(averages[i].dtype) for i in range(len(params))]

    def _plan(self, params: Sequence[Tensor], group: Any, all_of_them: bool) -> tuple[list, list[list[int]]]:
        """The types in which matrices travel, and which of them each rank makes: once for one set of shapes."""
        key = (group, all_of_them, params[0].device, *((p.shape, p.dtype) for p in params))
        if key not in self._plans:
            types, world = self._types(params, group), group.size()
            self._plans[key] = types, assigned(params, world) if all_of_them else worth_sharing(params, types, world)
        return self._plans[key]

    def _types(self, params: Sequence[Tensor], group: Any) -> list[torch.dtype]:
        """The types in which matrices travel: bfloat16 where every rank computes in it, so that nothing is lost."""
        if group not in self._half:
            import torch.distributed as dist

            device = params[0].device
            fast = torch.tensor([fast_in_half(device.type)], dtype=torch.int32, device=device)
            dist.all_reduce(fast, dist.ReduceOp.MIN, group=group)
            self._half[group] = bool(fast)
        half = self._half[group]
        return [
            torch.bfloat16 if half and is_narrow(min(matrix_shape(p)), p.dtype, p.device) else p.dtype for p in params
        ]


def _of_any(params: list[Any], averages: list[Tensor], products: Products) -> list[Tensor]:
    """Of DTensors that are laid out in any other way: each rank gathers all, makes all, and keeps what is its own."""
    from torch.distributed.tensor import DTensor, Replicate

    def whole(p: Any, average: Tensor) -> Tensor:
        layout: dict[str, Any] = {"shape": p.shape, "stride": p.stride(), "run_check": False}
        return DTensor.from_local(average, p.device_mesh, p.placements, **layout).full_tensor()

    def own(p: Any, direction: Tensor) -> Tensor:
        everywhere = [Replicate()] * p.device_mesh.ndim
        made = DTensor.from_local(direction.contiguous(), p.device_mesh, everywhere, run_check=False)
        return made.redistribute(placements=p.placements).to_local()

    made = products([whole(p, average) for p, average in zip(params, averages, strict=True)])
    return [own(p, direction) for p, direction in zip(params, made, strict=True)]


# Who makes what


def worth_sharing(params: Sequence[Tensor], sent: Sequence[torch.dtype], world: int) -> list[list[int]]:
    """The matrices that each rank makes for all, by their shapes and the types they are sent in.

    Those that are not in it are made sooner than gathered; it is empty where all together are.
    """
    bytes_of = [p.numel() * dtype.itemsize for p, dtype in zip(params, sent, strict=True)]
    costs = [products_of_orthogonal(matrix_shape(p)) for p in params]
    a_byte, a_gather = (of.get(params[0].device.type, of["cuda"]) for of in (PRODUCTS_A_BYTE, PRODUCTS_A_GATHER))
    some = [i for i in range(len(params)) if costs[i] > a_byte * bytes_of[i]]
    parts = [[some[k] for k in part] for part in assigned([params[i] for i in some], world)]
    saved = sum(costs[i] for i in some) - _most(parts, costs)
    return parts if saved > a_gather + a_byte * sum(bytes_of[i] for i in some) else [[] for _ in parts]


def assigned(matrices: Sequence[Tensor], world: int) -> list[list[int]]:
    """Which of the matrices each rank makes: the dearest first, each by the rank that has least to do so far.

    Those that are multiplied together stay together, unless that gives a rank an eighth more to do. It depends on
    shapes and types alone, and is the same on all ranks.

    >>> assigned([torch.empty(9, 9)] * 2 + [torch.empty(8, 8)] * 2, 2)
    [[0, 2], [1, 3]]
    """
    costs = [products_of_orthogonal(matrix_shape(matrix)) for matrix in matrices]
    together, apart = (_dealt(some, costs, world) for some in ([*alike(matrices)], [[i] for i in range(len(costs))]))
    return together if _most(together, costs) <= (1 + UNEVEN) * _most(apart, costs) else apart


def _dealt(groups: Sequence[list[int]], costs: Sequence[float], world: int) -> list[list[int]]:
    loads, parts = [0.0] * world, [[] for _ in range(world)]
    for some in sorted(groups, key=lambda some: -len(some) * costs[some[0]]):
        rank = loads.index(min(loads))
        parts[rank] += some
        loads[rank] += len(some) * costs[some[0]]
    return [sorted(part) for part in parts]


def _most(parts: Sequence[Sequence[int]], costs: Sequence[float]) -> float:
    """What the rank with most to do has."""
    return max(sum(costs[i] for i in part) for part in parts)


def shard_lengths(length: int, ranks: int) -> list[int]:
    """How many of a dimension's elements are in each rank's shard: as `torch.chunk` has it, with nothing for the rest.

    >>> shard_lengths(5, 4)
    [2, 2, 1, 0]
    """
    most = -(-length // ranks)
    return [max(0, min(most, length - rank * most)) for rank in range(ranks)]


def is_sharded(tensor: Any) -> bool:
    """Whether it is a DTensor. What makes one has imported their module, which takes long."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any, like: Any = None) -> Tensor:
    """What this rank has of a tensor, laid out over the ranks as `like` is: all, but of a DTensor.

    >>> local(torch.ones(2))
    tensor([1., 1.])
    """
    if not is_sharded(tensor):
        return tensor
    if like is not None and tensor.placements != like.placements:
        tensor = tensor.redistribute(placements=like.placements)
    return tensor.to_local()


def _holders(tensor: Any) -> Holders:
    if not is_sharded(tensor):
        return Holders(tensor.device)
    from torch.distributed.tensor import Shard

    split = [i for i, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not split:
        return Holders(tensor.device)
    simple = len(split) == 1 and type(tensor.placements[split[0]]) is Shard
    return Holders(tensor.device, tensor.device_mesh, split[0] if simple else None)


# How it travels


def _gathered(made: Sequence[Tensor], forms: list[list[Piece]], group: Any, like: Tensor) -> Iterator[list[Tensor]]:
    """What each rank made, which has these forms; `made` by this one."""
    import torch.distributed as dist

    length = max(map(_length, forms))
    ours, everything = (torch.empty(n, dtype=torch.uint8, device=like.device) for n in (length, length * len(forms)))
    _fill(ours, made)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # before torch 2.13
    gather(everything, ours, group=group)
    return (_views(part, some) for part, some in zip(everything.split(length), forms, strict=True))


def _exchanged(sent: list[list[Tensor]], forms: list[list[Piece]], group: Any, like: Tensor) -> list[list[Tensor]]:
    """What came from each rank, which has these forms, for what is sent to each."""
    import torch.distributed as dist

    outgoing, incoming = ([_length(some) for some in each] for each in (sent, forms))
    ours, theirs = (torch.empty(sum(n), dtype=torch.uint8, device=like.device) for n in (outgoing, incoming))
    for buffer, tensors in zip(ours.split(outgoing), sent, strict=True):
        _fill(buffer, tensors)
    dist.all_to_all_single(theirs, ours, incoming, outgoing, group=group)
    return [_views(buffer, some) for buffer, some in zip(theirs.split(incoming), forms, strict=True)]


def _fill(buffer: Tensor, tensors: Sequence[Tensor]) -> None:
    for view, tensor in zip(_views(buffer, tensors), tensors, strict=True):
        view.copy_(tensor)


def _views(buffer: Tensor, forms: Sequence[Piece | Tensor]) -> list[Tensor]:
    """Tensors of these forms in a buffer of bytes."""
    views, start = [], 0
    for form in forms:
        views.append(buffer[start : start + _bytes(form)].view(form.dtype).view(form.shape))
        start += _length([form])
    return views


def _length(forms: Sequence[Piece | Tensor]) -> int:
    """The bytes that tensors take one after the other."""
    return sum(-(-_bytes(form) // ALIGNED) * ALIGNED for form in forms)


def _bytes(form: Piece | Tensor) -> int:
    return prod(form.shape) * form.dtype.itemsize
