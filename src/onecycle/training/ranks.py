"""Several ranks, processes that train one model together: who is who, what they agree on, and how they end together.

All of it rests on `torch.distributed`. With one rank every call here gives back what it got.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parameter import is_lazy

from .. import text
from ..data.shards import Part, Shards
from ..errors import ConfigError, Interrupted, NonFiniteLoss, OneCycleError, RankError
from . import connections
from .copies import mapped, outline
from .launched import world_asked
from .meeting import meet
from .roll_call import RollCall, call_roll, machine

T = TypeVar("T")
_PLACED: dict[Path, Path] = {}  # where this process has the folder of a run, by where the main rank has it
PIECE = 64 << 20  # bytes of a file that are brought at once
# What a collective of torch.distributed says where another rank is gone, or does not come.
OF_OTHERS = "gloo", "NCCL", "pair closure", "by peer"


@dataclass(frozen=True)
class Ranks:
    """This process as one of `world` that train together, the one of number `rank`; made by `join` and `here`.

    `group` is one of torch.distributed for tensors on the CPU, None for a single rank. Rank 0 is the main one: it
    prints, writes, and decides what depends on time. Batches whose first dimension is not that of samples are computed
    whole by each rank: `cuts` is False.

    >>> Ranks().is_main, Ranks().sum(torch.ones(2)).tolist(), Ranks().broadcast("as it is"), Ranks().any(False)
    (True, [1.0, 1.0], 'as it is', False)
    """

    rank: int = 0
    world: int = 1
    group: Any = field(default=None, repr=False, compare=False)
    cuts: bool = True

    @classmethod
    def here(cls) -> Ranks:
        """The ranks of the process group that there is; a single one where there is none."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), _group_of_cpus())

    @classmethod
    def join(cls, backend: str, timeout: float) -> Ranks:
        """The ranks that torchrun or another launcher started, in the process group that there is or in a new one.

        `timeout` are the seconds that one waits for another.

        Raises:
            ConfigError: the launcher did not say who is who, or not all of them came.
        """
        world = world_asked()
        if world > 1 and not dist.is_initialized():
            if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
                raise ConfigError(
                    f"WORLD_SIZE is {world} and {text.listed(missing)} {'is' if len(missing) == 1 else 'are'} not set: "
                    f"start it by a launcher, such as torchrun --nproc-per-node={world} ..., or unset WORLD_SIZE"
                )
            try:
                store, rank, world = meet(timeout)
                before = connections.sockets()
                dist.init_process_group(
                    backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
                )
                _Blocks.sockets = frozenset(connections.sockets() - before)
            except (RuntimeError, ValueError) as error:
                at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                raise ConfigError(
                    f"rank {os.environ['RANK']} of {world} did not meet the others at {at} within "
                    f"{text.duration(timeout)}: {_first_line(error)}. Look whether all {world} processes were "
                    "started, and whether that address can be reached from each machine"
                ) from error
            atexit.register(_leave)
        ranks = cls.here()
        if ranks.world > 1 and _Blocks.of is not dist.group.WORLD:
            _Blocks.of, _Blocks.start = dist.group.WORLD, ranks.broadcast(uuid4().hex)
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """Such as "rank 1 of 4"."""
        return f"rank {self.rank} of {self.world}"

    def group_for(self, device: torch.device) -> Any:
        """The process group for tensors on a device."""
        return self.group if device.type == "cpu" or self.world == 1 else dist.group.WORLD

    @property
    def shards(self) -> Shards:
        """The parts that this rank takes of the batches of a training."""
        return Shards(self.rank, self.world, any=self.any, cuts=self.cuts)

    def parts(self, batches: Sequence[Any], *, least: int | None = None) -> list[Part]:
        """The parts of batches, those that are none yet cut; see `Shards`."""
        shards = self.shards if least is None else replace(self.shards, least=least)
        return [batch if isinstance(batch, Part) else shards.part(batch) for batch in batches]

    def counts(self, part: Part) -> bool:
        """Whether what this rank makes of a part is counted: of what all compute whole, that of the main rank alone."""
        return part.samples > 0 and (part.factor == 1 or self.is_main)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor, group=self.group_for(tensor.device))
        return tensor

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all ranks."""
        for flat, some in _flat(tensors if self.world > 1 else ()):
            _into(some, self.sum(flat) / self.world)

    @torch.no_grad()
    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have on the main rank."""
        for flat, some in _flat([t for t in tensors if not is_lazy(t)] if self.world > 1 else ()):
            dist.broadcast(flat, 0, group=self.group_for(flat.device))
            _into(some, flat)

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all ranks.

        They go up and down a tree, in 2 log2(ranks) steps: an all-reduce of gloo goes round all ranks, twice.
        """
        if self.world == 1:
            return list(numbers)
        held, theirs, bit = torch.tensor(numbers), torch.empty(len(numbers), dtype=torch.int64), 1
        while bit < self.world and not self.rank & bit:
            if self.rank + bit < self.world:
                dist.recv(theirs, self.rank + bit, group=self.group)
                torch.maximum(held, theirs, out=held)
            bit *= 2
        if self.rank:
            dist.send(held, self.rank - bit, group=self.group)
        dist.broadcast(held, 0, group=self.group)
        return held.tolist()

    def average(self, numbers: Iterable[float]) -> list[float]:
        """The means of numbers over all ranks."""
        numbers = list(numbers)
        if self.world == 1:
            return numbers
        return (self.sum(torch.tensor(numbers, dtype=torch.float64)) / self.world).tolist()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on some rank."""
        return bool(self.largest(int(flag))[0])

    def broadcast(self, thing: T) -> T:
        """What the main rank has, as plain data or anything that can be pickled."""
        if self.world == 1:
            return thing
        held = [thing if self.is_main else None]
        dist.broadcast_object_list(held, 0, group=self.group)
        return held[0]  # type: ignore[return-value]

    def gather(self, thing: T) -> list[T]:
        """What each rank has, by rank."""
        if self.world == 1:
            return [thing]
        held: list[Any] = [None] * self.world
        dist.all_gather_object(held, thing, group=self.group)
        return held

    def now(self) -> float:
        """The time by the main rank's `time.perf_counter`."""
        now = time.perf_counter()
        if self.world == 1:
            return now
        held = torch.tensor(now, dtype=torch.float64)
        dist.broadcast(held, 0, group=self.group)
        return float(held)

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main rank makes, plain data and tensors; an error there ends it for all.

        Raises:
            RankError: on the others, where it failed.
        """
        if self.world == 1:
            return make()
        made, error = None, None
        if self.is_main:
            try:
                made = make()
            except Exception as raised:
                error = raised
        said = self.broadcast(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        if said is not None:
            ended = self._ended(0, said)
            raise ended if _Blocks.within else _marked(ended, True)
        return self._brought(made)

    def _brought(self, state: Any) -> Any:
        """A structure that the main rank has, its tensors on the CPU, one by one."""
        shapes = self.broadcast(outline(state) if self.is_main else None)
        brought = mapped(state if self.is_main else shapes, self.whole)
        return state if self.is_main else brought

    def whole(self, tensor: Tensor) -> Tensor:
        """The main rank's tensor, of which the others know the shape and type, on the CPU."""
        held = tensor.detach().cpu().contiguous() if self.is_main else torch.empty(tensor.shape, dtype=tensor.dtype)
        if held.numel():
            dist.broadcast(held.flatten().view(torch.uint8), 0, group=self.group)
        return held

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Check that all ranks have the same plain facts, by name.

        Raises:
            ConfigError: one has others; it is named, with what differs.
        """
        if self.world == 1:
            return
        for rank, theirs in enumerate(everyone := self.gather(dict(facts))):
            for name, value in everyone[0].items():
                if (other := theirs.get(name)) != value:
                    raise ConfigError(
                        f"the ranks were given different runs: {name} is {value!r} on rank 0, and {other!r} on rank "
                        f"{rank} of {self.world}. Start all of them alike"
                    )

    def folder(self, folder: Path, *, resume: bool = False, weights: bool = False) -> Path:
        """The folder of a run on the main rank, a scratch one on the others, so that only the main rank writes.

        With `resume` that has the records of the run too, and with `weights` those; its checkpoints are not there.
        """
        if self.world == 1 or (folder in _PLACED and not weights):
            return _PLACED.get(folder, folder)
        sizes = self.from_main(lambda: _records(folder, weights) if resume else {})
        placed = folder
        if not self.is_main:
            placed = _PLACED.get(folder) or Path(mkdtemp(prefix="onecycle-rank-")) / folder.name
            atexit.register(shutil.rmtree, placed.parent, ignore_errors=True)
            placed.mkdir(exist_ok=True)
        for name, size in sizes.items():
            self._bring(placed / name, size)
        _PLACED[folder] = _PLACED[placed] = placed
        return placed

    def empty(self, folder: Path) -> None:
        """Empty the scratch folder of this rank, if this is one: the main rank has a new run there."""
        if not self.is_main and _PLACED.get(folder) == folder:
            for path in folder.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _bring(self, path: Path, size: int) -> None:
        """Bring the main rank's file of `size` bytes to the path that each other rank has for it, in pieces."""
        with path.open("rb" if self.is_main else "wb") as file:
            for start in range(0, size, PIECE):
                held = min(PIECE, size - start)
                piece = bytearray(file.read(held) if self.is_main else held)
                dist.broadcast(torch.frombuffer(piece, dtype=torch.uint8), 0, group=self.group)
                if not self.is_main:
                    file.write(piece)

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error of one rank within the block ends all ranks, and the others say whose it was.

        One that waited for another in vain says which did not come.

        Raises:
            RankError: another rank failed, or did not come.
        """
        if self.world == 1 or _Blocks.within:
            yield
            return
        _Blocks.within, _Blocks.number = True, _Blocks.number + 1
        try:
            yield
        except BaseException as error:
            told = self.told(error)
            if told is error:
                raise
            raise told from error
        finally:
            _Blocks.within = False

    def told(self, error: BaseException) -> BaseException:
        """The error to be raised, once the others were told of it or it was found out whose it is.

        `silent` of it says whether another rank says so for this one, `of_rank` whose it is where not all met it.
        """
        if self.world == 1 or hasattr(error, "silent") or not dist.is_initialized():
            return error
        theirs = isinstance(error, RankError) or _is_of_others(error)
        said = None if theirs else f"{type(error).__name__}: {error}"
        meets = isinstance(error, NonFiniteLoss | Interrupted | ConfigError) and not getattr(error, "alone", False)
        store = _store()
        late = store.timeout.total_seconds() if theirs and re.search("[Tt]imed ?out|[Tt]imeout", str(error)) else 0.0
        call = call_roll(store, _name(), self.rank, self.world, said, _break_off, meets=meets, late=late)
        if theirs:
            return self._of_others(error, call)
        speaker = 0 if call.alike >= self.world or call.first is None else call.first.rank
        silent = call.first is not None and call.first.said == said and speaker != self.rank
        return _marked(error, silent, None if call.alike >= self.world else self.rank)

    def _of_others(self, error: BaseException, call: RollCall) -> BaseException:
        """Who failed, by what it said, or else who does not answer."""
        if call.first is not None:  # which it says itself, and here the first rank of each other machine
            rank, said, at = call.first
            ended = error if isinstance(error, RankError) else self._ended(rank, said)
            return _marked(ended, at == machine() or os.environ.get("LOCAL_RANK", "0") != "0")
        here = next(rank for rank in range(self.world) if rank not in call.absent)
        if not call.absent:
            return _marked(RankError(f"{self.name} could not go on with the others: {_reason(error)}"), False)
        who = text.listed([f"rank {rank}" for rank in call.absent])
        return _marked(RankError(
            f"{who} of {self.world} {'does' if len(call.absent) == 1 else 'do'} not answer: hanging, or gone "
            f"({_reason(error)}). Look at what it last printed; where an update or an evaluation may take that long, "
            "give a larger timeout", of=call.absent[0],
        ), self.rank != here)  # fmt: skip

    def _ended(self, rank: int, said: str) -> RankError:
        return RankError(f"rank {rank} of {self.world} ended the run: {said}", of=rank, said=said)


ALONE = Ranks()


def together(method: Callable[..., T]) -> Callable[..., T]:
    """A method of something with a `runtime` within `Ranks.together` of its ranks."""

    @wraps(method)
    def called(self: Any, *arguments: Any, **keywords: Any) -> T:
        with self.runtime.ranks.together():
            return method(self, *arguments, **keywords)

    return called


class _Blocks:
    """Whether this process is within `Ranks.together`, and how many such blocks there were: alike on all ranks.

    `start` is a name of the process group `of` which they are, whose store may have outlived other ranks; `sockets` are
    its connections, where it was made here.
    """

    within = False
    number = 0
    start = ""
    of: Any = None
    sockets: frozenset[tuple[int, int]] = frozenset()


def _name() -> str:
    return f"onecycle/{_Blocks.start}/{_Blocks.number}"


def _marked(error: BaseException, silent: bool, of_rank: int | None = None) -> BaseException:
    error.__dict__.update(silent=silent, of_rank=of_rank)
    return error


def _reason(error: BaseException | None) -> str:
    """What torch.distributed says, without where in its sources that is and what else one might do.

    >>> _reason(RuntimeError("[/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:7048. This is typically ..."))
    'Connection closed by peer [127.0.0.1]:7048'
    """
    while isinstance(error, OneCycleError) and error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"^.*\[/\S+\] ", "", _first_line(error or RuntimeError())).partition(". This is typically")[0]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_of_others(error: BaseException | None) -> bool:
    """Whether torch.distributed raised it, or what it was made of, because of another rank."""
    if error is None or isinstance(error, KeyboardInterrupt):
        return False
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in OF_OTHERS)
    if isinstance(error, dist.DistError) or (said and not isinstance(error, OneCycleError)):
        return True
    return isinstance(error, OneCycleError) and _is_of_others(error.__cause__)


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


@cache
def _extra_group(default: Any) -> Any:
    return dist.new_group(backend="gloo")


def _group_of_cpus() -> Any:
    """A group for tensors on the CPU: the default one, or one beside it where that is for GPUs alone."""
    default = dist.group.WORLD
    if "cpu" in str(dist.get_backend_config(default)) or dist.get_backend(default) == "gloo":
        return default
    return _extra_group(default)


def _flat(tensors: Iterable[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Tensors of one kind in one piece, as a copy, and which they are."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for some in kinds.values():
        yield torch.cat([tensor.detach().reshape(-1) for tensor in some]), some


@torch.no_grad()
def _into(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Take tensors out of one piece."""
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _break_off() -> None:
    """Leave the process group so that no other rank waits for this one."""
    with suppress(Exception):
        connections.close(_Blocks.sockets)
    _leave()


def _leave() -> None:
    """Leave the process group, where there is one."""
    with suppress(Exception):
        if dist.is_initialized():
            dist.destroy_process_group()


def _records(folder: Path, weights: bool) -> dict[str, int]:
    """The bytes in the files of a run by name: its records, and its weights where they are asked for."""
    kinds = (".json", ".jsonl", *([".safetensors"] if weights else []))
    known = [path for path in folder.glob("*") if path.is_file() and path.suffix in kinds]
    return {path.name: path.stat().st_size for path in known}
