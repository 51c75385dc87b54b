"""A training with a rising learning rate, of anything that has a step, which leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median_low
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.batches import Batches
from ..data.seeds import derive_seed, seeded, seeded_everywhere
from ..errors import ConfigError, DataError, Interrupted, TrainingError
from ..optim.driver import stepped
from ..optim.groups import scales_of, write
from ..records.curve import SCOUT, Sweep
from ..schedules.policy import Policy
from ..training.norms import batch_statistics
from ..training.reachable import tensors_of
from ..training.restore import called_untouched, untouched
from ..training.runtime import generators
from ..training.sharded import of_all
from ..training.signals import StopRequest
from .watch import DivergenceWatch

# Called after each update, with its learning rate and whether measurements are due there.
SweepProbe = Callable[[float, bool], None]

# An update that changes the weights by this share does not move the loss; one that changes them by so much has lost it.
STILL, WILD = 1e-5, 30.0
# The learning rate of a progress that is the learning rate.
AS_GIVEN = Policy({"lr": lambda lr: lr})


class StepLosses(NamedTuple):
    """What a step minimises, by which divergence is told, and what compares with the held-out loss and is recorded."""

    minimised: Any
    recorded: Any


@dataclass
class SweptStep:
    """What is tested: a step of any kind, over batches that are gone through again and again. `test` is its name.

    Where the modules are not `given`, those with parameters of the optimizers are added as they are called.
    """

    step: Callable[[Any], Any]
    optimizers: Sequence[Optimizer]
    batches: Batches
    evaluate: Callable[[], Mapping[str, float]] | None
    restart: Callable[[int], None] | None
    modules: list[nn.Module]
    keep: Sequence[Any]
    seed: int
    stop: StopRequest
    test: str = "range test"
    given: bool = True
    scales: list[float] = field(init=False)
    parameters: set[int] = field(init=False)
    updates: int = 0
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scales = scales_of(self.optimizers)
        parameters = [p for optimizer in self.optimizers for g in optimizer.param_groups for p in g["params"]]
        self.parameters = {id(p) for p in parameters}
        self.generators = generators(*{p.device for p in parameters})

    @contextmanager
    def begin(self, repeat: int) -> Iterator[SweepRun]:
        """Begin from the state at first, with the data order and (where a restart is known) the weights of `repeat`."""
        with untouched(self.optimizers, self.modules, self.keep), ExitStack() as stack:
            if repeat > 1 and self.restart is not None:
                again = derive_seed(self.seed, "restart", repeat)
                with seeded_everywhere(again, *self.generators):
                    self.restart(again)
            called = [] if self.given else stack.enter_context(called_untouched(self.modules, self.parameters))
            run = SweepRun(self, repeat, called)
            for optimizer in self.optimizers:
                stack.callback(optimizer.register_step_post_hook(run.on_step).remove)
            if len(self.optimizers) == 1:  # where two play against each other, one may well win for a while
                stack.callback(self.optimizers[0].register_step_pre_hook(run.before_step).remove)
            yield run
            self.take(called)

    def take(self, called: Iterable[nn.Module]) -> None:
        """Count those of the modules that were called that hold parameters of the optimizers among the modules."""
        new = (module for module in called if module not in self.modules)
        self.modules += [module for module in new if not self.parameters.isdisjoint(tensors_of(module))]

    @property
    def calls_per_update(self) -> int:
        """Calls of the step that an update takes, more than one where gradients are accumulated."""
        return median_low(self.calls) if self.calls else 1

    def obey(self) -> None:
        """Raise `Interrupted` where a signal asked for a stop."""
        self.stop.agree()
        if self.stop.signal is not None:
            what = f"the {self.test} was stopped by {self.stop.name}; everything is as before"
            raise Interrupted(what, signal=self.stop.signal)


class SweepRun:
    """One repeat under way: updates at learning rates that it is told, and measurements."""

    def __init__(self, swept: SweptStep, repeat: int, called: Sequence[nn.Module] = ()):
        self.swept, self.repeat, self.called = swept, repeat, called
        self.updates = 0
        self.recorded = math.nan  #: the loss of the last update as it is recorded
        self.gradients: list[float] = []  #: the norm of each weight's gradient in the last update
        self._stepped: set[Optimizer] = set()
        self._stream = _recycled(swept.batches, repeat)

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The hook that measures the gradients."""
        self.gradients = _gradient_norms(p for group in optimizer.param_groups for p in group["params"])

    def on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The hook that marks an optimizer as stepped, unless its step was skipped in fp16."""
        if stepped(optimizer):
            self._stepped.add(optimizer)

    def update(self, lr: float) -> float:
        """Make one update of every optimizer at `lr`; the mean loss of the batches that it took.

        A batch that only accumulates gradients, or whose gradients overflow, is neither an update nor a point.
        A loss that is not finite is returned at once.
        """
        swept = self.swept
        swept.obey()
        swept.updates += 1
        for optimizer, scale in zip(swept.optimizers, swept.scales, strict=True):
            write(AS_GIVEN, optimizer, lr * scale)
        self._stepped.clear()
        losses: list[StepLosses] = []
        while len(self._stepped) < len(swept.optimizers):
            if len(losses) >= 64 + 4 * swept.calls_per_update:
                return self._never(len(losses))
            seed = derive_seed(swept.seed, "range test", self.repeat, self.updates, len(losses))
            with seeded(swept.generators, seed):
                losses.append(StepLosses(*swept.stop.ranks.average(_losses(swept.step(next(self._stream))))))
            if not math.isfinite(losses[-1].minimised):
                return losses[-1].minimised
        self.updates += 1
        swept.calls.append(len(losses))
        minimised, self.recorded = (sum(values) / len(losses) for values in zip(*losses, strict=True))
        return minimised

    def measure(self) -> Mapping[str, float]:
        """Measure the model as it stands on held-out data, batch norms with the statistics of those."""
        self.swept.take(self.called)
        modes = [(part, part.training) for module in self.swept.modules for part in module.modules()]
        try:
            with batch_statistics(self.swept.modules):
                measured = self.swept.evaluate() if self.swept.evaluate else {}
        finally:
            for part, training in modes:
                part.training = training
        names = ("loss", "accuracy")
        if not isinstance(measured, Mapping) or not measured.keys() & set(names):
            what = 'evaluate returns {"loss": ..., "accuracy": ...} or one of them'
            raise ConfigError(f"{what}; received {measured!r}")
        values = {name: _float(measured[name], f"evaluate returns the {name}") for name in names if name in measured}
        return dict(zip(values, self.swept.stop.ranks.average(values.values()), strict=True))

    def _never(self, calls: int) -> float:
        if self.updates:
            return math.nan  # gradients that overflow at any scale
        raise TrainingError(
            f"{calls} calls of the step made no update of every optimizer: a step takes a batch, calls backward() and "
            "optimizer.step(), and returns the loss"
        )


@dataclass(frozen=True)
class ScoutedRange:
    """The learning rates that the scout found: where the loss does not move yet (`still`), and where it is lost.

    Where the loss was not lost up to the wildest learning rate, that is the `edge`, and `lost` is False; `moved` is
    False where it did not even change.
    """

    still: float
    edge: float
    lost: bool
    moved: bool


def scout(swept: SweptStep) -> ScoutedRange:
    """Find the learning rates between which a sweep has something to show, whatever the optimizer.

    One update at a learning rate of 1 tells how far the weights move; from a rate that moves them by `STILL`, it
    doubles until the loss diverges.

    Raises:
        TrainingError: the loss is NaN from the start, or no weight moves.
    """
    with swept.begin(0) as run:
        parameters = [p for group in swept.optimizers[0].param_groups for p in group["params"] if p.requires_grad]
        if not parameters:
            raise TrainingError("all weights are frozen: unfreeze what is to be trained")
        before = [p.detach().clone() for p in parameters]
        first = run.update(1.0)
        change = _norm(p.detach() - b for p, b in zip(parameters, before, strict=True))
        # Weights that begin at zero count as if they were of an ordinary size.
        relative = change / max(_norm(before), 0.01 * math.sqrt(sum(b.numel() for b in before)))
    if not math.isfinite(first):
        raise TrainingError(
            f"the loss is {first} before any update: look at the data (NaN, infinite or far too large values), at the "
            "initial weights, and in fp16 try precision bf16 or fp32"
        )
    if not math.isfinite(relative) or relative == 0.0:
        raise TrainingError(
            "an update does not move the weights, or makes them infinite: are they frozen, are gradients zero or NaN?"
        )
    with swept.begin(0) as run:
        watch, lr = DivergenceWatch(), STILL / relative
        while lr < WILD / relative:
            loss = run.update(lr)
            if not math.isfinite(loss) or watch.diverged(loss, run.gradients):
                return ScoutedRange(STILL / relative, lr / SCOUT, lost=True, moved=True)
            lr *= SCOUT
        return ScoutedRange(STILL / relative, lr / SCOUT, lost=False, moved=watch.moved)


def sweep(swept: SweptStep, repeat: int, lrs: Sequence[float], every: int, probe: SweepProbe | None = None) -> Sweep:
    """Train through these learning rates until it diverges; measure after every `every` updates."""
    watch, lr, loss = DivergenceWatch(), [], []
    measured: list[tuple[float, Mapping[str, float]]] = []
    stopped = "end"
    with swept.begin(repeat + 1) as run:
        for k, rate in enumerate(lrs):
            value = run.update(rate)
            if not math.isfinite(value):
                stopped = "nan"
                break
            lr.append(rate)
            loss.append(run.recorded)
            if watch.diverged(value, run.gradients):
                stopped = "diverged"
            due = k % every == every - 1 or stopped != "end"
            if probe is not None:
                probe(rate, due)
            if swept.evaluate is not None and due:
                measurement = run.measure()
                if all(map(math.isfinite, measurement.values())):
                    measured.append((rate, measurement))
                else:
                    stopped = "nan" if stopped == "end" else stopped
            if stopped != "end":
                break
    losses, accuracies = (tuple(m[name] for _, m in measured if name in m) for name in ("loss", "accuracy"))
    rates = tuple(rate for rate, _ in measured)
    return Sweep(tuple(lr), tuple(loss), rates, losses, accuracies, stopped, len(lr))


@torch.no_grad()
def _gradient_norms(parameters: Iterable[Tensor]) -> list[float]:
    """The norm of each gradient, 0 where there is none; empty where one is not finite."""
    gradients = [p.grad for p in parameters if p.requires_grad]
    dense = [g.coalesce().values() if g is not None and g.is_sparse else g for g in gradients]
    known = [of_all(torch.linalg.vector_norm(g)).float() for g in dense if g is not None]
    if not known:
        return []
    norms = torch.stack([norm.to(known[0].device) for norm in known]).tolist()
    if not all(map(math.isfinite, norms)):
        return []
    measured = iter(norms)
    return [0.0 if g is None else next(measured) for g in dense]


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(math.fsum(float(of_all(t.detach().square().sum())) for t in tensors))


def _recycled(batches: Batches, repeat: int) -> Iterator[Any]:
    """The batches of epoch after epoch, in an order that no other repeat has."""
    for epoch in count(1_000_000 * (repeat + 1)):
        empty = True
        for batch in batches.epoch(epoch):
            yield batch
            empty = False
        if empty:
            raise DataError(
                "the batches ended and cannot be gone through again: give a DataLoader, a list of batches, or anything "
                "that begins anew at every iter()"
            )


def _losses(returned: Any) -> StepLosses:
    if isinstance(returned, StepLosses):
        return StepLosses(*map(float, returned))
    loss = returned[0] if isinstance(returned, tuple) and returned else returned
    return StepLosses(*[_float(loss, "a step returns the loss of its batch")] * 2)


def _float(value: Any, what: str) -> float:
    if isinstance(value, SupportsFloat) and math.prod(getattr(value, "shape", ())) == 1:
        return float(value.item() if isinstance(value, Tensor) else value)
    raise ConfigError(f"{what}, one number; received {value!r}")
