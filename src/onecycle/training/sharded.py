"""A model in shards: each rank holds a piece of every weight, of its gradient and of the optimizer's state.

`torch.distributed.fsdp.fully_shard` does the work: a weight becomes a `DTensor` [m, ...] of which each of n ranks has
about m / n rows, and is whole only while its block computes. What is here chooses the blocks, and brings a state
together on the main rank and back to the shards of any number of ranks, in the form that it has without shards: torch's
`get_optimizer_state_dict` has names for what is numbered there, and makes an update to find out what is kept.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..data.standardise import constant
from ..errors import ConfigError
from ..optim.build import sparse_layers
from ..optim.shared import is_sharded, local
from ..text import count
from .batch_norm import batch_norms
from .copies import copied, mapped, outline
from .objectives import BatchMeans
from .ranks import Ranks

Compute = Callable[[Any], BatchMeans]

# Modules whose members are called one by one, each by itself.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# A block has such a share of a model's weights at least; one of more than this share is looked into.
LEAST, MOST = 1 / 200, 1 / 2


def shard(
    ranks: Ranks, device: torch.device, *modules: nn.Module, optimizer: Optimizer | None = None, small: bool = False
) -> None:
    """Shard modules over the ranks, in place and with the main rank's values; gradients are summed over the ranks.

    Each block (see `blocks_of`) is gathered by itself, and so is what is left of each module. Parameters are other
    objects afterwards; those of an `optimizer` that has made no update are replaced. Modules may be so `small` that
    some rank gets nothing, as one in a loss is.

    Raises:
        ConfigError: there is one rank alone, or a module cannot be sharded.
    """
    if ranks.world == 1:
        raise ConfigError(
            "shard shares a model out over several ranks, and this is one alone: start them with torchrun "
            "--nproc-per-node=N -m onecycle train ... --shard (or torchrun --nproc-per-node=N SCRIPT), N the number of "
            "devices; or leave it out"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(f"shard needs torch 2.13 or later; this is {torch.__version__}: install it, or leave it out")
    for module in modules:
        _check(module, 1 if small else ranks.world)
    mesh = init_device_mesh(device.type, (ranks.world,))
    for module in modules:
        before = dict(module.named_parameters())
        _bring_into_form(module, ranks)
        parts = [*blocks_of(module), module]
        for part in parts:
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
            type(part).__name__ = type(part).__mro__[2].__name__  # as words and records have it
            part.register_forward_hook(_without_views, prepend=True)
        _Recovery(module)
        _USES[module] = _Uses(module, parts)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)  # gloo has no other
                part.set_reduce_scatter_unused_params(True)
        if optimizer is not None:
            now = dict(module.named_parameters())
            _replace(optimizer, {id(p): now[name] for name, p in before.items()})


def has_shards(module: nn.Module) -> bool:
    """Whether a module has weights in shards."""
    return any(local(p) is not p for p in module.parameters())


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The modules that are gathered by themselves: members of sequences and lists with a real share of the weights.

    Of those inside each other it is the outermost; but one with more than half of all weights is looked into. One that
    shares a weight with the rest of the model is none.

    >>> blocks = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3)]
    >>> found = blocks_of(nn.Sequential(nn.Linear(2, 8), nn.Sequential(*blocks), nn.Linear(8, 2)))
    >>> len(found), found[1:4] == blocks
    (5, True)
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    total = _size(model)

    def within(module: nn.Module) -> list[nn.Module]:
        found: list[nn.Module] = []
        for child in module.children():
            inner, size = within(child), _size(child)
            alone = Counter(id(p) for _, p in child.named_parameters(remove_duplicate=False))
            fits = isinstance(module, CONTAINERS) and _is_called(child) and size >= max(1, LEAST * total)
            if fits and all(uses[one] == times for one, times in alone.items()) and (size <= MOST * total or not inner):
                found.append(child)
            else:
                found += inner
        return found

    return list(dict.fromkeys(within(model)))


def _is_called(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _check(module: nn.Module, world: int) -> None:
    """Raise a ConfigError for what FSDP2 fails at, or makes something else of."""
    name, mend = type(module).__name__, "; or leave out shard"
    named = list(module.named_parameters())
    if lazy := [name for name, tensor in chain(named, module.named_buffers()) if is_lazy(tensor)]:
        raise ConfigError(
            f"{name} has {lazy[0]}, which gets its shape from the first batch, and shard needs it before: call the "
            f"model on a batch first{mend}"
        )
    if meta := [name for name, p in named if p.is_meta]:
        raise ConfigError(
            f"{name} has {meta[0]} on the meta device, where weights have no values: give them some with "
            f'model.to_empty(device="cpu") and load_state_dict()'
        )
    if scalars := [name for name, p in named if not p.ndim]:
        raise ConfigError(
            f"{name} has {scalars[0]} without a dimension, which cannot be sharded: make it of shape [1], as "
            f"nn.Parameter(torch.ones(1)){mend}"
        )
    if len(kinds := sorted({str(p.dtype)[6:] for _, p in named if p.requires_grad})) > 1:
        raise ConfigError(f"the weights of {name} are {' and '.join(kinds)}, and shard takes one type: use .to(){mend}")
    if sparse := sparse_layers(module):
        raise ConfigError(
            f"the gradients of {next(iter(sparse))} are sparse, which are not summed over shards: build the embedding "
            f"with sparse=False{mend}"
        )
    if max((len(torch.empty(p.shape[0], device="meta").chunk(world)) for _, p in named), default=0) < world:
        raise ConfigError(
            f"{name} of {count(_size(module), 'parameter')} is too small for {world} ranks: weights are shared out by "
            f"their rows, and none has enough for each rank to get some; use fewer ranks{mend}"
        )


@torch.no_grad()
def _bring_into_form(module: nn.Module, ranks: Ranks) -> None:
    """Give all ranks the main rank's weights and buffers, and weights the one memory format that is sharded."""
    for p in module.parameters():
        p.data = p.data.contiguous()
    for tensor in chain(module.parameters(), module.buffers()):
        tensor.copy_(ranks.whole(tensor))


def _replace(optimizer: Optimizer, by: Mapping[int, nn.Parameter]) -> None:
    """Give an optimizer other parameters in the place of those with these ids."""
    if optimizer.state:
        raise ConfigError(
            "an optimizer that has made updates is of whole weights: shard the model before the first one"
        )
    for group in optimizer.param_groups:
        group["params"] = [by.get(id(p), p) for p in group["params"]]


def _without_views(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Outputs, those that are views copied: an operation in place would take them out of FSDP2's backward pass."""
    if not torch.is_grad_enabled():
        return None
    if type(outputs) in (tuple, list):
        return type(outputs)([_unless_view(one) for one in outputs])
    return _unless_view(outputs)


def _unless_view(value: Any) -> Any:
    is_view = isinstance(value, Tensor) and value.requires_grad and value._base is not None
    return value.clone() if is_view else value


class _Recovery:
    """Has a module begin anew where a forward pass failed, such as one that was tried."""

    def __init__(self, module: nn.Module):
        self._under_way = False
        module.register_forward_pre_hook(self._begin, prepend=True)
        module.register_forward_hook(self._end)
        module.register_forward_hook(self._recover, always_call=True)

    def _begin(self, module: Any, inputs: Any) -> None:
        self._under_way = True

    def _end(self, module: Any, inputs: Any, outputs: Any) -> None:
        self._under_way = False

    def _recover(self, module: Any, inputs: Any, outputs: Any) -> None:
        if self._under_way:
            module.reset_iter_state()
            self._under_way = False


class _Uses:
    """Which weights of a module have had a gradient: FSDP2 gives zeros to those that had none, so that ranks differ."""

    def __init__(self, module: nn.Module, parts: Sequence[nn.Module]):
        self.parameters = list(module.parameters())
        self.used: set[int] = set()
        taken: set[int] = set()
        for part in parts:
            named = {name: p for name, p in part.named_parameters() if id(p) not in taken}
            taken |= set(map(id, named.values()))
            part.register_forward_pre_hook(partial(self._watch, named))

    def _watch(self, waiting: dict[str, nn.Parameter], part: nn.Module, inputs: Any) -> None:
        """Have the gathered weights of a part tell of their gradients, once for each; frozen ones wait."""
        if waiting and torch.is_grad_enabled():
            gathered = {name: part.get_parameter(name) for name in waiting}
            for name, p in gathered.items():
                if p.requires_grad and not is_sharded(p):
                    p.register_hook(partial(self._use, id(waiting.pop(name))))

    def _use(self, number: int, gradient: Tensor) -> None:
        self.used.add(number)


_USES: WeakKeyDictionary[nn.Module, _Uses] = WeakKeyDictionary()


def summed(numbers: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Numbers of the local pieces of `tensors` summed over the ranks, in place; as they are where none has shards."""
    for tensor in tensors:
        if local(tensor) is not tensor:
            dist.all_reduce(numbers, group=tensor.device_mesh.get_group())  # type: ignore[attr-defined]
            break
    return numbers


def of_all(number: Any) -> Tensor:
    """A number that was computed of a tensor in shards as it is of all of them; any other as it is.

    torch itself gives ``float(number)`` of the shards of this rank alone.
    """
    return number.full_tensor() if is_sharded(number) else number


def explained(error: Exception) -> ConfigError | None:
    """An error of weights that are used without the module that gathers them, in words; None for any other."""
    if "mixed torch.Tensor and DTensor" not in str(error):
        return None
    return ConfigError(
        "shard gathers the weights of a module while it is called, and here some are used without that: call the model "
        "itself in a loss (model(x), not a part or another method of it), and within the model the members of its "
        f"lists (layer(x), not F.linear(x, layer.weight)); or leave out shard ({str(error).partition(', need')[0]})"
    )


class SummedShards:
    """`compute` of a batch on this rank, whose backward pass sums the gradients of all ranks into their shards.

    It is called for each batch of an update: gradients that waited for the last one would be whole, and take as much
    memory as a whole model. Buffers but for those of batch norms are the main rank's in each forward pass; so are these
    with `statistics`.
    """

    in_each_batch = True

    def __init__(self, compute: Compute, modules: Sequence[nn.Module], ranks: Ranks, *, statistics: bool):
        from torch.distributed.fsdp import FSDPModule

        norms = {id(b) for norm in batch_norms(modules) for b in norm.buffers()}
        buffers = [b for module in modules for b in module.buffers()]
        self._aligned = [b for b in buffers if statistics or id(b) not in norms]
        self._compute, self._ranks, self._stands_in = compute, ranks, False
        self._uses = [_USES[module] for module in modules if module in _USES]
        for module in modules:
            for part in module.modules():
                if isinstance(part, FSDPModule):
                    part.set_custom_reduce_scatter(self)  # type: ignore[arg-type]

    @contextmanager
    def computing(self, last: bool) -> Iterator[Callable[[Any], tuple[BatchMeans, Any]]]:
        """A block for a batch of an update, and its backward pass."""
        if self._aligned:
            self._ranks.align(self._aligned)
        yield lambda batch: (self._compute(batch), None)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """A block for a backward pass that counts for nothing: it brings zeros."""
        used = [set(uses.used) for uses in self._uses]
        self._stands_in = True
        try:
            yield
        finally:
            self._stands_in = False
            for uses, before in zip(self._uses, used, strict=True):
                uses.used = before

    def carried(self, carrier: Any, numbers: Tensor, flags: Sequence[int]) -> float:
        """What is to be added to the loss, nothing; numbers and flags are kept until they are summed over the ranks."""
        self._numbers = torch.cat([constant(tuple(map(float, flags)), numbers), numbers.flatten()])
        return 0.0

    def arrived(self, columns: int) -> tuple[Tensor, Tensor]:
        """The sums of the numbers, in two rows, and of the flags.

        Weights that had no gradient on any rank have none from here on, as on one rank.
        """
        known = [(uses.used, p) for uses in self._uses for p in uses.parameters]
        used = self._ranks.sum(
            torch.tensor([int(id(p) in used) for used, p in known])
        )  # on the CPU: nothing is waited for
        for (_, p), times in zip(known, used.tolist(), strict=True):
            p.grad = p.grad if times else None
        for uses in self._uses:
            uses.used = set()
        sums = self._ranks.sum(self._numbers)
        return sums[2:].view(2, columns), sums[:2]

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for gradients that are summed, as FSDP2 asks for it."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        """Sum gradients, of which each rank gets its shards."""
        if self._stands_in:
            input_tensor.zero_()
        return dist.reduce_scatter_single(output_tensor, input_tensor, dist.ReduceOp.SUM, group, async_op)


def whole(state: Any, ranks: Ranks) -> Any:
    """A structure of tensors and plain data with all shards put together, to be called on all ranks.

    The main rank has it on the CPU, and it shares no memory; on the others tensors are of shapes alone, on the device
    "meta". Tensors are gathered one by one, and what shares its memory once.
    """
    tensors: list[Tensor] = []
    mapped(state, tensors.append)
    firsts = ranks.broadcast(_firsts(tensors) if ranks.is_main else [])
    made: list[Tensor] = []
    for tensor, first in zip(tensors, firsts, strict=True):
        made.append(_whole(tensor.detach(), ranks.is_main) if first == len(made) else made[first])
    following = iter(made)
    return mapped(state, lambda tensor: next(following))


def _firsts(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor the number of the first of them that is the same memory seen alike."""
    known: dict[Any, int] = {}
    firsts = []
    for i, tensor in enumerate(tensors):
        piece = local(tensor.detach())
        address = piece.data_ptr() if piece.layout == torch.strided and piece.numel() else 0
        key = (address, tensor.shape, piece.stride(), piece.dtype, piece.device) if address else (i,)
        firsts.append(known.setdefault(key, i))
    return firsts


def _whole(tensor: Any, is_main: bool) -> Tensor:
    if local(tensor) is tensor:
        return tensor.to("cpu", copy=True) if is_main else outline(tensor)
    tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()  # a state that was kept may be on the CPU
    if not is_main:
        return outline(tensor)
    held = tensor.cpu()
    return held if held.untyped_storage().nbytes() == held.nbytes else held.clone()  # gathered with padding


def in_one_piece(model: nn.Module, ranks: Ranks) -> nn.Module | Weights:
    """What has the state of a model whole on the main rank: itself or, where it is in shards, a copy."""
    return Weights(whole(model.state_dict(), ranks)) if has_shards(model) else model


@dataclass(frozen=True)
class Weights:
    """The weights of a model without the model."""

    state: Mapping[str, Any]

    def state_dict(self) -> Mapping[str, Any]:
        """As that of the model."""
        return self.state


def held_by_main(make: Callable[[], Any], ranks: Ranks) -> Any:
    """What the main rank makes; the others have its outline."""
    held: list[Any] = []
    ranks.from_main(lambda: held.append(make()))
    given = ranks.broadcast(outline(held[0]) if held else None)
    return held[0] if held else given


def brought(
    saved: Mapping[str, Any], modules: Sequence[nn.Module], optimizer: Optimizer, ranks: Ranks
) -> dict[str, Any]:
    """The parts of a state that the main rank has whole, and the others at least in outline, in the shards of modules.

    The parts are those that `TrainState.load_state_dict` has checked. Tensors are brought one by one.
    """
    now = [module.state_dict() for module in modules]
    bringing = _Bringing(ranks)

    def of_modules(states: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [bringing.named(state, like) for state, like in zip(states, now, strict=False)]

    best, averages = saved["best"], saved["averages"]
    return {
        **saved,
        "modules": of_modules(saved["modules"]),
        "optimizer": bringing.of_optimizer(saved["optimizer"], optimizer),
        "averages": None if averages is None else bringing.named(averages, now[0]),
        "data": bringing.plain(saved["data"]),
        "best": None if best is None else {**best, "modules": of_modules(best["modules"])},
        "kept": [
            replace(
                kept, modules=copied(of_modules(kept.modules)),
                optimizer=copied(bringing.of_optimizer(kept.optimizer, optimizer)),
                averages=None if kept.averages is None else copied(bringing.named(kept.averages, now[0])),
            )
            for kept in saved["kept"]
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class _Bringing:
    """How tensors of the main rank come to the ranks, each like one that is there."""

    ranks: Ranks

    def named(self, state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by name, like those of the same names."""
        ordered = OrderedDict((name, self._like(value, like.get(name))) for name, value in state.items())
        vars(ordered).update(vars(state) if isinstance(state, OrderedDict) else {})
        return ordered

    def of_optimizer(self, state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state; of a parameter in shards what has its shape is in such."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        like = dict(zip(numbers, parameters, strict=False))
        kept = {
            n: {name: self._like(value, like.get(n)) for name, value in of.items()} for n, of in state["state"].items()
        }
        return {**state, "state": kept, "param_groups": self.plain(state["param_groups"])}

    def _like(self, value: Any, like: Any) -> Any:
        if not isinstance(value, Tensor):
            return self.plain(value)
        if not isinstance(like, Tensor) or local(like) is like or like.shape != value.shape:
            return self.plain(value)
        return in_shards_of(like, value)

    def plain(self, value: Any) -> Any:
        """A structure whose tensors are as they are on the main rank."""
        return mapped(value, self.ranks.whole)


def in_shards_of(like: Any, tensor: Tensor) -> Tensor:
    """The main rank's `tensor`, of which the others know the shape and type, in shards like another; else as it is."""
    if local(like) is like:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh
    device = torch.device(mesh.device_type)
    here = (
        torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor.detach().to(device)
    )
    return distribute_tensor(here, mesh, like.placements)
