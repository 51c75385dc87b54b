"""Everything that changes while training, in one place that can be saved and restored to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, _foreach_lerp_, nn  # type: ignore[attr-defined]
from torch.optim import Optimizer

from ..checks import flag, one_of, share, unwrapped
from ..data.batches import Batches
from ..data.loaders import LoaderBatches
from ..data.seeds import derive_seed
from ..data.standardise import untransformed
from ..errors import CheckpointError, ConfigError
from ..optim.build import check_clip, check_same_model
from ..optim.groups import plain_settings
from ..optim.muon import Muon
from ..optim.shared import local
from ..text import listed
from .copies import bytes_of, copied
from .means import RunningMeans, diverged
from .objectives import Loss, loss_module
from .options import NORM_STATISTICS
from .rescue import Kept, Watch, can_keep
from .runtime import Runtime, generators
from .sharded import SummedShards, brought, has_shards, summed, whole
from .signals import StopRequest
from .summed import Summed

Made = TypeVar("Made")
MEANS = ("sums", "weights", "samples", "seconds")
# Of a CUDA device's memory, what a good state may take that is kept there, where nobody waits for its copy.
SPARED = 1 / 64
# What is part of a saved state; a module in the loss, averages and the best weights came later.
NEEDED = ("model", "optimizer", "scaler", "seed", "at", "begun", "means")
MEND = "Make model, loss, optimizer and options as they were when it was saved, or begin the run anew"


@dataclass
class Position:
    """Where a run is: counted in updates, epochs, batches of the epoch under way, and seconds spent on training.

    `progress` is the one that the last update used. Of a run in a time budget: `charged` are the seconds that were
    spent before its first update, `pace` those of an update, and `ending` those that what follows the last one takes.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    progress: float = 0.0
    charged: float = 0.0
    pace: float = 0.0
    ending: float = 0.0

    def advance(self, batches: int, seconds: float, progress: float) -> None:
        """One update was applied."""
        self.step += 1
        self.batch += batches
        self.seconds, self.progress = seconds, progress


@dataclass
class TrainState:
    """A model in training: what `onecycle.train` reads and changes.

    Args:
        model: the network, on the device that it is to be trained on.
        optimizer: any torch optimizer over its parameters.
        loss: ``loss(model, batch)`` returns the batch's mean loss, or ``(loss, {metric: mean})``.
        runtime: device, precision and memory format; None: the device that the model is on, in float32, and its weights
            as they lie: ``Runtime.of(model, channels_last=True)`` trains convolutions faster, with other roundings.
        seed: what dropout, batch order and augmentation are derived from.
        accumulate: batches for each update.
        clip: largest norm of the gradient, over all parameters; None: not clipped.
        average: keep a moving average of the weights, which keeps this share of itself at each update (less in the
            first ones: at most (1 + k) / (10 + k) at update k); None: none.
        forward: what to call in the model's place, such as ``torch.compile(model)``.
        norm_statistics: those of batch norms are "estimated" anew from training data before each evaluation and at the
            end of a run, or "running" means.
        rescue: where a run is lost, go back to a good state that was kept, and on at smaller learning rates; see
            `onecycle.training.rescue`.

    `at` is the position over the model's whole life, `begun` where the run under way began (None: none is), `averages`
    are the averaged weights and buffers by name, and `best` is the best model so far, where one is kept. `watch` is how
    the run under way does, and `kept` are the good states that it can go back to, the latest last.

    Raises:
        ConfigError: accumulate below 1, clip not above 0, or an optimizer of another model.
    """

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    runtime: Runtime = None  # type: ignore[assignment]
    seed: int = 0
    accumulate: int = 1
    clip: float | None = None
    forward: Any = None
    at: Position = field(default_factory=Position)
    begun: Position | None = None
    means: RunningMeans = field(default_factory=RunningMeans)
    average: float | None = None
    norm_statistics: str = "estimated"
    rescue: bool = True
    averages: dict[str, Tensor] | None = None
    best: dict[str, Any] | None = None
    watch: Watch | None = None
    kept: list[Kept] = field(default_factory=list)
    _data: LoaderBatches | None = field(default=None, init=False, repr=False)
    _place: dict[str, Any] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.average is not None:
            share("average", self.average, of="itself that a moving average keeps")
        self.seed, self.accumulate, self.clip = map(unwrapped, (self.seed, self.accumulate, self.clip))
        plain_settings(self.optimizer)
        check_same_model(self.optimizer, *self.modules)
        if self.accumulate < 1:
            raise ConfigError(
                f"accumulate is the number of batches for each update, at least 1; received {self.accumulate}"
            )
        one_of("norm_statistics", self.norm_statistics, NORM_STATISTICS)
        flag("rescue", self.rescue)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip is the largest norm of the gradient, above 0; received {self.clip}")
        check_clip(self.clip, self.model)
        self.runtime = Runtime.of(self.model) if self.runtime is None else self.runtime
        if self.runtime.channels_last:
            self.runtime.place(self.model)
        self.forward = self.model if self.forward is None else self.forward
        for module in self.modules[1:]:
            module.to(self.runtime.device)
        tensors = (t for module in self.modules for t in (*module.parameters(), *module.buffers()))
        self.runtime.ranks.align(t for t in tensors if local(t) is t)
        if isinstance(self.optimizer, Muon) and self.runtime.ranks.world > 1:
            self.optimizer.share(self.runtime.ranks.group_for(self.runtime.device))
        self._summed: tuple[Any, Summed | SummedShards] | None = None
        self.stop: StopRequest | None = None  # what may stop the run under way
        self.heard: Tensor | None = None  # of several ranks, its flags on all of them by the latest update
        self.scaler = self.runtime.scaler()
        self.generators = generators(self.runtime.device)

    def summed(self, compute: Callable[..., Any]) -> Summed | SummedShards:
        """What sums the gradients of several ranks, for the weights that are trained now, by `onecycle.training.step`'s
        `compute`."""
        trained = tuple([p.requires_grad for module in self.modules for p in module.parameters()])
        about = trained, id(self.loss), id(self.forward), self.norm_statistics
        if self._summed is None or self._summed[0] != about:
            computed = partial(compute, self.loss, self.forward, runtime=self.runtime)
            statistics = self.norm_statistics == "running"
            kind = SummedShards if self.is_sharded else Summed
            self._summed = about, kind(computed, self.modules, self.runtime.ranks, statistics=statistics)
        return self._summed[1]

    def draws(self, step: int) -> int:
        """What dropout and the like are seeded by in an update, on each rank otherwise."""
        rank = self.runtime.ranks.rank
        return derive_seed(self.seed, "update", step, *([rank] if rank else []))

    @property
    def may_replay(self) -> bool:
        """Whether `forward` may replay CUDA graphs, whose outputs the next update overwrites."""
        return self.forward is not self.model and self.runtime.device.type == "cuda"

    @cached_property
    def beside_optimizer(self) -> list[nn.Parameter]:
        """The parameters that the optimizer does not hold, whose gradients nobody looks after."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return [p for module in self.modules for p in module.parameters() if id(p) not in held]

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and the module in the loss where there is one."""
        of_loss = loss_module(self.loss)
        return [self.model] if of_loss is None else [self.model, of_loss]

    def training_mode(self) -> None:
        """Put the modules into training mode, but for what was put into evaluation mode within them."""
        for module in self.modules:
            training_mode(module)

    @property
    def step(self) -> int:
        """Updates applied over the model's whole life."""
        return self.at.step

    @property
    def updates(self) -> int:
        """Updates applied in the run under way; 0 where none is."""
        return self.step - (self.at if self.begun is None else self.begun).step

    @cached_property
    def is_sharded(self) -> bool:
        """Whether weights lie in shards over several ranks."""
        return any(map(has_shards, self.modules))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data; loads with ``torch.load(weights_only=True)``.

        Of a model in shards, where all ranks call it, the main one has all on the CPU, as of one that is whole; the
        others have the shapes of tensors alone.
        """
        self.means.read()
        state = {
            "model": self.model.state_dict(),
            "loss": [module.state_dict() for module in self.modules[1:]],
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "seed": self.seed,
            "averages": self.averages,
            "best": self.best,
            "at": asdict(self.at),
            "begun": None if self.begun is None else asdict(self.begun),
            "means": {name: copy.copy(getattr(self.means, name)) for name in MEANS},
            "rescue": self._safety(),
            "data": None if self._data is None else self._data.state_dict(self.at.epoch, self.at.batch),
        }
        return whole(state, self.runtime.ranks) if self.is_sharded else state

    def reads(self, batches: Batches) -> None:
        """The run is on these batches: where they are from a loader that has a state, that is part of this one."""
        plain = untransformed(batches)
        self._data = plain if isinstance(plain, LoaderBatches) else None
        self._give_place()

    def _give_place(self) -> None:
        """Have the loader of the run begin where it was when a state was saved that was loaded."""
        if self._data is not None:
            self._data.load_state_dict(self._place)

    def _safety(self) -> dict[str, Any] | None:
        """What rescues rest on, as tensors and plain data."""
        if self.watch is None:
            return None
        kept = [{**vars(one), "watch": asdict(one.watch)} for one in self.kept]
        return {"watch": asdict(self.watch), "kept": kept, "watched": list(self.means.watched or ())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; all of it or, where it does not fit, nothing.

        Of a state that an earlier version saved, what it did not know of is as it was then. Into a model in shards goes
        what the main rank gives, saved in whatever shards; the others give it too, or an outline of it.

        Raises:
            CheckpointError: something is missing or unlike: saved for another model, another optimizer or other
                options; it is named.
        """
        saved = _checked(state, self)
        if self.is_sharded:
            saved = brought(saved, self.modules, self.optimizer, self.runtime.ranks)
        try:
            with all_or_nothing(*self.modules, optimizer=self.optimizer):
                self._load(saved["modules"], saved["optimizer"], saved["scaler"], saved["averages"])
                for kept in saved["kept"]:
                    _check_kept(kept, self.modules)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"this state is of another model or optimizer: {error}. {MEND}") from error
        for name in ("best", "seed", "at", "begun", "means", "watch", "kept"):
            setattr(self, name, saved[name])
        self._place = saved["data"]
        self._give_place()

    def _load(
        self, modules: Sequence[Mapping[str, Any]], optimizer: Mapping[str, Any], scaler: Mapping[str, Any] | None,
        averages: Mapping[str, Tensor] | None,
    ) -> None:  # fmt: skip
        for module, values in zip(self.modules, modules, strict=True):
            module.load_state_dict(values)
        _check_same_kind(self.optimizer, optimizer)
        self.optimizer.load_state_dict(copy.deepcopy(dict(optimizer)))  # torch itself keeps the tensors
        _keep_types(self.optimizer, optimizer)
        if self.scaler is not None and scaler is not None:
            self.scaler.load_state_dict(dict(scaler))
        device = self.runtime.device
        self.averages = None if averages is None else {name: t.to(device, copy=True) for name, t in averages.items()}

    def keep(self, *, proven: bool = False) -> None:
        """Keep a copy of the state as it is now, to go back to; of those before the last proven one stays.

        It is on the CPU, or on a CUDA device where it takes up to `SPARED` of the memory there: a copy to the CPU would
        be waited for.
        """
        if self.watch is None or not can_keep(self.modules):
            return
        parts = {
            "modules": [module.state_dict() for module in self.modules],
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "averages": self.averages,
        }
        kept = Kept(self.updates, proven, replace(self.watch), **copied(parts, stays=self._is_spared(parts)))
        self.kept = [*[one for one in self.kept if one.proven][-1:], kept]

    def _is_spared(self, parts: Mapping[str, Any]) -> bool:
        """Whether a copy of these parts may stay on the device."""
        device = self.runtime.device
        if device.type != "cuda":
            return False
        return bytes_of(parts) <= SPARED * torch.cuda.get_device_properties(device).total_memory

    def prove(self) -> None:
        """The losses after the latest state that was kept are well: go back to no earlier one."""
        if self.kept and not self.kept[-1].proven:
            self.kept = [replace(self.kept[-1], proven=True)]

    def go_back(self) -> Kept:
        """Bring back the last proven state that was kept, all but the position; return it."""
        kept = next(one for one in reversed(self.kept) if one.proven)
        self._load(kept.modules, kept.optimizer, kept.scaler, kept.averages)
        if self.scaler is not None:
            self.scaler._per_optimizer_states.clear()  # an update that was broken off leaves its stage
        self.kept, self.watch = [kept], replace(kept.watch)
        return kept

    @torch.no_grad()
    def follow(self) -> None:
        """Take the weights as they are now into their moving average."""
        if self.average is None:
            return
        now = self.model.state_dict()
        if self.averages is None:
            self.averages = {name: tensor.clone() for name, tensor in now.items() if isinstance(tensor, Tensor)}
            return
        keep = min(self.average, (1 + self.updates) / (10 + self.updates))
        floating = [name for name, average in self.averages.items() if average.is_floating_point()]
        if floating:  # in a launch or two for all of them, on an accelerator
            averages = [local(self.averages[name]) for name in floating]
            _foreach_lerp_(averages, [local(now[name]) for name in floating], 1 - keep)
        for name in self.averages.keys() - floating:
            self.averages[name].copy_(now[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has its averaged weights and buffers, where there are such."""
        if self.averages is None:
            yield
            return
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if name in self.averages}
        self.model.load_state_dict(self.averages, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(before, strict=False)

    def take_averages(self) -> None:
        """Give the model its averaged weights and buffers, where there are such, and end the averaging."""
        if self.averages is not None:
            self.model.load_state_dict(self.averages, strict=False)
            self.averages = None

    def end_run(self) -> None:
        """Give up the run under way, if there is one: the next `onecycle.train` begins a new one, with a new epoch."""
        self.averages = self.best = self.watch = None
        self.kept = []
        if self.at.batch:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        self.begun, self.means = None, RunningMeans()

    def take_optimizer(self, optimizer: Optimizer) -> None:
        """Have another optimizer, before the first update."""
        plain_settings(optimizer)
        check_same_model(optimizer, *self.modules)
        self.optimizer = optimizer
        vars(self).pop("beside_optimizer", None)

    def begin_anew(self) -> None:
        """Keep the weights alone: what the optimizer knows, and how far training was, is as before the first update."""
        self.end_run()
        self.optimizer.state.clear()
        self.at = Position()

    def check_finite(self) -> None:
        """Read what is pending, and look at every weight.

        Raises:
            NonFiniteLoss: a loss or a weight is NaN or infinite.
        """
        self.means.read()
        named = list(chain.from_iterable(module.named_parameters() for module in self.modules))
        if _has_finite_sum([tensor for _, tensor in named]):
            return
        for name, tensor in named:
            if bool(summed((~torch.isfinite(local(tensor.detach()))).sum(), [tensor])):
                lr = float(self.optimizer.param_groups[0]["lr"])
                raise diverged(f"non-finite weights in {name}", self.step - 1, lr)


@torch.no_grad()
def _has_finite_sum(tensors: Sequence[Tensor]) -> bool:
    """Whether the sum of all numbers in `tensors` is finite, and so is each of them, by one transfer of a kind.

    One that is not finite tells nothing: those of large numbers overflow.
    """
    sums: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        sums.setdefault((tensor.device, tensor.dtype), []).append(local(tensor).sum())
    return all(bool(summed(torch.stack(parts).sum(), tensors).isfinite()) for parts in sums.values())


def training_mode(module: nn.Module) -> None:
    """Put a module into training mode, but for what is in evaluation mode within one that is in training."""
    if not module.training:
        if any(part.training for part in module.modules()):
            module.training = True
        else:
            module.train()


@contextmanager
def all_or_nothing(*modules: nn.Module, optimizer: Optimizer | None = None) -> Iterator[None]:
    """Where loading fails within the block, weights and buffers of `modules` and the state of `optimizer` are put back.

    Loading replaces the tensors of an optimizer's state and copies into those of a module.
    """
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    settings = None if optimizer is None else optimizer.state_dict()
    try:
        yield
    except BaseException:
        for module, state in zip(modules, before, strict=True):
            module.load_state_dict(state)
        if optimizer is not None and settings is not None:
            optimizer.load_state_dict(settings)
        raise


def _keep_types(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give loaded state the types that were saved: torch itself casts it to the parameters', whatever it was in."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            loaded = optimizer.state[parameter].get(name)
            if isinstance(value, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
                optimizer.state[parameter][name] = value.detach().clone().to(loaded.device)


def _check_same_kind(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """torch itself takes over the settings of any optimizer, and fails at the next step."""
    groups, late = saved["param_groups"], {"differentiable"}  # which torch adds to the defaults when it loads a state
    missing = [name for name in optimizer.defaults if name not in late and not all(name in group for group in groups)]
    if missing:
        raise ValueError(f"{type(optimizer).__name__} has settings that were not saved: {', '.join(missing)}")
    named = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(named, numbers, strict=False):  # their number is looked at by torch
        for name, value in saved["state"].get(number, {}).items():
            now = optimizer.state.get(parameter, {}).get(name)
            if isinstance(now, Tensor) and isinstance(value, Tensor) and now.shape != value.shape:
                raise ValueError(f"its {name} is {list(value.shape)} for a parameter where it is {list(now.shape)}")


def _checked(state: Any, into: TrainState) -> dict[str, Any]:
    """The parts of a saved state that is to be loaded `into` another one, copied; ``modules`` are model and loss.

    Raises:
        CheckpointError: a part is missing, is of another kind or does not fit; nothing is changed.
    """
    if not isinstance(state, Mapping) or (missing := [name for name in NEEDED if name not in state]):
        lacks = f"has no {listed(missing)}" if isinstance(state, Mapping) else f"is a {type(state).__name__}"
        raise CheckpointError(
            f"this is no state of a training, which TrainState.state_dict() gives: it {lacks}. {MEND}"
        )
    state = _completed(state, into)
    kinds: dict[str, Any] = {"model": Mapping, "loss": list, "optimizer": Mapping, "seed": int}
    optional = ("scaler", "begun", "averages", "best", "rescue", "data")
    kinds |= {"at": Mapping, "means": Mapping, **dict.fromkeys(optional, Mapping | None)}
    for name, kind in kinds.items():
        if not isinstance(state[name], kind):
            raise _unlike(f"{name} is a {type(state[name]).__name__}")
    modules = [state["model"], *state["loss"]]
    if len(modules) != len(into.modules):
        has, here = ("a module" if n > 1 else "no module" for n in (len(modules), len(into.modules)))
        raise _unlike(f"it has {has} in its loss, and here there is {here}")
    saved = {
        **copy.deepcopy({name: state[name] for name in ("seed", "averages", "best", "data")}),
        "modules": modules, "optimizer": state["optimizer"], "scaler": state["scaler"],
        "at": _made(Position, state["at"], "at"),
        "begun": None if state["begun"] is None else _made(Position, state["begun"], "begun"),
        "means": _made(RunningMeans, state["means"], "means"),
        **_checked_safety(state["rescue"], into),
    }  # fmt: skip
    saved["means"].watched = saved.pop("watched")
    _check_averages(saved, into)
    if saved["data"] is not None and saved["data"].keys() != {"epoch", "batch", "loader"}:
        raise _unlike(f"of its data it has {listed(map(str, saved['data']))}")
    if (best := saved["best"]) is not None:
        if lacking := [name for name in ("step", "epoch", "valid", "modules") if name not in best]:
            raise _unlike(f"its best has no {listed(lacking)}")
        if len(best["modules"]) != len(modules):
            raise _unlike(
                f"its best has the weights of {len(best['modules'])} modules, and here there are {len(modules)}"
            )
        for tensors, module in zip(best["modules"], into.modules, strict=True):
            _check_tensors("best", tensors, module)
    return saved


def _completed(state: Mapping[str, Any], into: TrainState) -> dict[str, Any]:
    """A state that an earlier version may have saved, with what came later as it was in effect then."""
    empty = [{} for module in into.modules[1:] if not module.state_dict()]
    state = {"loss": empty, "averages": None, "best": None, "rescue": None, "data": None, **state}
    means = state["means"]
    if isinstance(means, Mapping) and "weights" not in means and isinstance(means.get("sums"), Mapping):
        means = {**means, "weights": dict.fromkeys(means["sums"], means.get("samples", 0))}
    return {**state, "means": means}


def _checked_safety(safety: Mapping[str, Any] | None, into: TrainState) -> dict[str, Any]:
    """What rescues rest on, of a saved state; without one, or where there are to be none, a run begins it anew."""
    if safety is None or not into.rescue:
        return {"watch": None, "kept": [], "watched": None}
    try:
        kept = [Kept(**{**copied(one), "watch": Watch(**one["watch"])}) for one in safety["kept"]]
        watch, watched = Watch(**copy.deepcopy(dict(safety["watch"]))), [(*one,) for one in safety["watched"]]
    except (TypeError, KeyError) as error:
        raise _unlike(f"what it can be rescued by is of another kind: {error}") from error
    return {"watch": watch, "kept": kept, "watched": watched}


def _check_kept(kept: Kept, modules: Sequence[nn.Module]) -> None:
    """Raise a CheckpointError for a kept state of other modules."""
    if len(kept.modules) != len(modules):
        raise _unlike(f"what it goes back to has {len(kept.modules)} modules, and here there are {len(modules)}")
    for tensors, module in zip(kept.modules, modules, strict=True):
        plain = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        _check_tensors("kept weights", plain, module)


def _check_averages(saved: Mapping[str, Any], into: TrainState) -> None:
    averages, at, begun = saved["averages"], saved["at"], saved["begun"]
    under_way = begun is not None and at.step > begun.step
    if under_way and (averages is None) != (into.average is None):
        has = "no moving average" if averages is None else "a moving average"
        raise _unlike(f"it has {has} of the weights, and here there is average={into.average}")
    if averages is not None:
        _check_tensors("averages", averages, into.model)


def _check_tensors(what: str, tensors: Mapping[str, Any], module: nn.Module) -> None:
    """Raise a CheckpointError for tensors by name that are not those of the module."""
    now = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    if odd := sorted(now.keys() ^ tensors.keys()):
        raise _unlike(f"its {what} and the model differ in {listed(odd, most=4)}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.shape != now[name].shape:
            size = list(tensor.shape) if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise _unlike(f"its {what} have {name} of {size}, and here it is {list(now[name].shape)}")


def _made(kind: type[Made], values: Mapping[str, Any], name: str) -> Made:
    """A dataclass from its fields; those that an earlier version did not have are as by default."""
    known = MEANS if kind is RunningMeans else [one.name for one in fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in known]:
        raise _unlike(f"its {name} has {listed(map(str, unknown))}, which this version of onecycle does not know")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, dict if key in ("sums", "weights") else int | float):
            raise _unlike(f"its {name} has {key}={value!r}")
    return kind(**copy.deepcopy(dict(values)))


def _unlike(what: str) -> CheckpointError:
    return CheckpointError(f"this state cannot be loaded here: {what}. {MEND}")
