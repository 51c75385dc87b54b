"""The learning rate range test: which peak a 1cycle run can take, found by a short training that leaves no trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Optimizer
from torch.utils.data import Subset

from .. import text
from ..checks import number, unwrapped
from ..data.batches import (
    Batches,
    DatasetBatches,
    ListBatches,
    OneShotBatches,
    TensorBatches,
    as_batches,
    epoch_order,
    peeked,
)
from ..data.standardise import changed_within, untransformed
from ..errors import ConfigError, DataError, TrainingError
from ..optim.driver import attached, inner
from ..records.curve import Curve, Sweep
from ..records.files import write_json
from ..training import evaluate as evaluation
from ..training.loop import groups_of, updates_per_epoch
from ..training.norms import batch_norms
from ..training.objectives import UNSMOOTHED, means_of
from ..training.reachable import modules_of
from ..training.sharded import has_shards, in_shards_of
from ..training.sharing import considerate
from ..training.signals import stop_requests
from ..training.state import TrainState
from ..training.step import samples_in, update
from .peak import Suggestion, suggest
from .plan import EPOCHS, MEASUREMENTS, MOST, SHORTEST, check_plan, default_updates, ends, rates, sweep_updates
from .sharpness import SharpnessProbe
from .sweep import STILL, WILD, ScoutedRange, StepLosses, SweepProbe, SweptStep, scout, sweep
from .verdict import Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Held-out samples of a measurement, at least and at most, and training samples that the sharpness is measured on.
SAMPLES, SHARPNESS_SAMPLES = (128, 512), 64
NEVER_MOVED = (
    f"the loss did not move, whether an update changed the weights by {STILL:g} or by {WILD:g} of their size: does the "
    "step compute it with the weights that its optimizer has?"
)


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Args:
        curve: what was measured.
        verdict: whether it keeps its accuracy at large learning rates, a condition of super-convergence.
        lr_max: the peak for a 1cycle run of `epochs` epochs; None where the curve does not tell, with the `reason`.
        lr_min: where the learning rate begins to matter.
        edge: where training diverges.
        decades: the standard error of the peak over the repeats, in decades; None where it comes from the scout.
        kind, batch_norm: what `suggest` was told of the optimizer and the model.
        cost: updates, evaluations, seconds, and the share that the updates are of a training of 10 epochs.
        sharpness: over the first sweep, where it was asked for: ``lr``, the ``largest_eigenvalue`` of the Hessian, and
            ``hessian_free``, an estimate of the best learning rate; None where there is no value.
        folder: where the test was written; None for one that was not.
        command: the command that goes on with the peak; None where there is none.
    """

    curve: Curve
    verdict: Verdict
    lr_max: float | None = None
    lr_min: float | None = None
    edge: float | None = None
    reason: str | None = None
    decades: float | None = None
    epochs: float = EPOCHS
    kind: str = "adaptive"
    batch_norm: bool = False
    cost: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    title: str = ""
    sharpness: dict[str, list[float | None]] | None = None
    folder: Path | None = None
    command: str | None = None

    def __repr__(self) -> str:
        peak = "None" if self.lr_max is None else f"{self.lr_max:.3g}"
        return f"RangeTest(lr_max={peak}, verdict={self.verdict.answer!r}, updates={self.cost.get('updates')})"

    def _repr_html_(self) -> str:
        from ..report.content import ANSWERS

        rates = {"peak": self.lr_max, "it begins to matter at": self.lr_min, "edge of divergence": self.edge}
        rows = [(name, text.number(lr, 3)) for name, lr in rates.items() if lr is not None]
        reason = [("no peak", self.reason)] if self.reason else []
        return text.html_table([*rows, *reason, ("verdict", ANSWERS[self.verdict.answer])], title=self.title)

    def peak(self, epochs: float) -> float | None:
        """The peak for a run of another length, in epochs.

        Raises:
            ConfigError: a length that is not above 0.
        """
        number("epochs", epochs, above=0)
        if self.lr_max is None:
            return None
        return suggest(self.curve, epochs=epochs, kind=self.kind, batch_norm=self.batch_norm).lr_max

    def to_dict(self) -> dict[str, Any]:
        """Plain data: all of it, the curve too; the folder and the command where there are any."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("folder", "command")}
        verdict = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.verdict).items()}
        more = {"folder": self.folder and str(self.folder), "command": self.command}
        more = {name: value for name, value in more.items() if value is not None}
        return {**plain, "curve": self.curve.to_dict(), "verdict": verdict, "notes": list(self.notes), **more}

    def plot(self) -> Figure:
        """Accuracy and losses over the learning rate, the band over repeats, the suggested range and the verdict."""
        from ..report.draw_range_test import range_figure

        return range_figure(self.to_dict())

    def text(self, width: int = 80) -> str:
        """The same in characters, for a terminal of `width` columns."""
        from ..report.terminal import range_text

        return "\n".join(range_text(self.to_dict(), width))

    def line(self) -> str:
        """The result in a line."""
        if self.lr_max is None:
            return f"no peak from the range test: {self.reason}"
        edge = "" if self.edge is None else f", diverges at {self.edge:.2g}"
        updates = text.count(self.cost["updates"], "updates")
        return f"peak learning rate {self.lr_max:.2g}, from a range test of {updates}{edge}"

    def save(self, path: str | Path) -> Path:
        """Write all of it as JSON.

        Raises:
            CheckpointError: the path cannot be written.
        """
        write_json(Path(path), self.to_dict())
        return Path(path)


@considerate()
def range_test(
    step: Callable[[Any], Any],
    optimizer: Optimizer | Sequence[Optimizer],
    batches: Any,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    updates: int | None = None,
    repeats: int = 2,
    lr_low: float | None = None,
    lr_high: float | None = None,
    spacing: str = "exponential",
    epochs: float = EPOCHS,
    restart: Callable[[int], None] | None = None,
    model: nn.Module | Sequence[nn.Module] | None = None,
    keep: Sequence[Any] = (),
    probe: SweepProbe | None = None,
    seed: int = 0,
    title: str = "",
) -> RangeTest:
    """Train for a short while with a rising learning rate, and read off where it is fast and where it diverges.

    A scout first finds the learning rates between which there is something to see; then each repeat sweeps through
    them, with a data order of its own, until it diverges. Everything that training changes is put back afterwards, bit
    for bit.

    Args:
        step: ``step(batch)`` makes an update as your loop does (forward, backward, ``optimizer.step()``) and returns
            the batch's mean loss, a number of any sign. A call that only accumulates gradients makes no update.
        optimizer: the optimizer that `step` steps, or several (as of a GAN). Groups keep the ratios of their rates, and
            so do optimizers; the learning rates of the result are the first optimizer's largest.
        batches: whatever `step` takes, in anything that `onecycle.as_batches` takes; gone through as often as needed.
        evaluate: measures the model as it stands on held-out data: returns ``{"loss": ..., "accuracy": ...}``, either
            of them or both. Batch norms then use the statistics of the batches that it feeds.
        updates: of the whole test; None: a twentieth of the updates of 10 epochs, but at least 64 and at most 400.
        repeats: sweeps, each with another data order.
        lr_low, lr_high: the ends of the sweep; None: found by the scout.
        spacing: "exponential", or "linear" as in the paper.
        epochs: of the 1cycle run that is to follow.
        restart: ``restart(seed)`` draws new initial weights into the model, for every repeat but the first.
        model: what `step` trains; None: the modules with parameters of the optimizers that `step` and `evaluate` lead
            to, and those that they call. Calls inside what torch.compile has compiled are not seen.
        keep: other objects that `step` changes, with `state_dict` and `load_state_dict`: a scaler, a scheduler.
        probe: ``probe(lr, due)`` is called after each update of the first sweep, with whether measurements are due; it
            looks at what it likes and changes nothing.
        seed: of the orders and of what the step draws.
        title: what the figure is called.

    Source: Smith, 1506.01186, section 3.3; Smith & Topin, 1708.07120, section 3.

    Raises:
        ConfigError: arguments that cannot be used.
        DataError: fewer than two batches, or an iterator, which cannot be put back.
        TrainingError: the loss is NaN from the start, or the step does not train.
        Interrupted: Ctrl-C or SIGTERM came; everything is as before.

    >>> import torch
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> def step(batch):
    ...     loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> test = range_test(step, optimizer, list(torch.randn(200, 64, 4, generator=torch.Generator().manual_seed(0))))
    >>> test.lr_min < test.lr_max < test.edge, model.weight.grad
    (True, None)
    """
    started = time.perf_counter()
    optimizers, modules = swept_parts(optimizer, model, step, evaluate, restart, *keep)
    updates, repeats, lr_low, lr_high, epochs = map(unwrapped, (updates, repeats, lr_low, lr_high, epochs))
    check_plan(updates, repeats, lr_low=lr_low, lr_high=lr_high, spacing=spacing, epochs=epochs)
    with stop_requests() as stop, sampler_kept(batches):
        source = source_of(batches, seed)
        swept = SweptStep(
            step, optimizers, source, evaluate, restart, modules, keep, seed, stop, given=model is not None
        )
        scouted = scout(swept)
        per_epoch = updates_per_epoch(source)
        per_epoch = None if per_epoch is None else max(1, per_epoch // max(1, swept.calls_per_update))
        n = sweep_updates(updates, default_updates(per_epoch), swept.updates, repeats, evaluate, lr_high is None)
        planned = rates(*ends(scouted, lr_low, lr_high, spacing), n, spacing, open_ended=lr_high is None)
        every = max(1, n // MEASUREMENTS)
        sweeps = tuple(sweep(swept, i, planned, every, None if i else probe) for i in range(repeats))
        swept.obey()
    cost = {"updates": swept.updates, "evaluations": sum(len(s.valid_lr) for s in sweeps)}
    cost |= {"share": swept.updates / (EPOCHS * per_epoch)} if per_epoch else {}
    cost |= {"seconds": round(time.perf_counter() - started, 3)}
    curve = Curve(sweeps, scouted.edge if scouted.lost else None)
    told = {"epochs": epochs, "kind": kind_of(optimizers[0]), "batch_norm": bool(batch_norms(swept.modules))}
    reason = _nothing_to_see(scouted, sweeps)
    peak = Suggestion(reason=reason) if reason else suggest(curve, **told)
    return RangeTest(curve, judge(curve), **asdict(peak), **told, cost=cost, title=title)


def range_test_of(
    state: TrainState,
    train: Batches,
    valid: Batches | None,
    *,
    build: Callable[[int], nn.Module] | None = None,
    updates: int | None = None,
    repeats: int = 2,
    full: bool = False,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> RangeTest:
    """`range_test` of what `state` trains on `train`, with a part of `valid` held out; see `Learner.range_test`.

    With `full`, the sharpness of the training loss is measured along the first sweep, and ``cost`` says the seconds
    that it took. `say` is told in a line how long the test takes.
    """
    check_plan(updates, repeats)
    train = peeked(train, (updates or MOST) * state.accumulate)
    allowed = default_updates(updates_per_epoch(train, state.accumulate)) if updates is None else updates
    if say is not None:
        more = ", and several times that for the sharpness" if full else ""
        say(f"range test: takes about the time of {allowed} updates{more}")
    batch = samples_in(next(iter(train.epoch(0)), ())) * state.accumulate
    samples = min(SAMPLES[1], max(SAMPLES[0], allowed // repeats * batch // (2 * MEASUREMENTS)))
    held_out = None if valid is None else [state.runtime.move(part) for part in part_of(valid, samples)]
    loss = replace(state.loss, meters={}) if hasattr(state.loss, "meters") else state.loss  # type: ignore[type-var]
    measure = None if held_out is None else partial(evaluation.evaluate, state.model, held_out, loss, state.runtime)
    probe = SharpnessProbe(*_training_loss(state, train)) if full else None
    test = range_test(
        partial(_update, state, held_out is not None),
        state.optimizer,
        _UpdateBatches(_reordered(train, state.seed), state.accumulate),
        evaluate=measure,
        updates=updates,
        repeats=repeats,
        restart=build and partial(_rebuild, state.model, build),
        model=state.modules,
        keep=[] if state.scaler is None else [state.scaler],
        probe=probe,
        seed=state.seed,
        **options,
    )
    if probe is None:
        return test
    return replace(test, sharpness=probe.values, cost={**test.cost, "sharpness_seconds": round(probe.seconds, 3)})


def _update(state: TrainState, compared: bool, group: list[Any]) -> Tensor | float | StepLosses:
    """One update as a training makes it; the loss is NaN where the gradients overflow at any scale.

    What is `compared` with a held-out loss is the loss without label smoothing.
    """
    state.training_mode()
    try:
        means = update(state, [state.runtime.move(batch) for batch in group])
    except TrainingError:
        return math.nan
    unsmoothed = means.metrics.get(UNSMOOTHED) if compared else None
    return means.loss if unsmoothed is None else StepLosses(means.loss, unsmoothed)


def _rebuild(model: nn.Module, build: Callable[[int], nn.Module], seed: int) -> None:
    try:
        state = build(seed).state_dict()
        if has_shards(model):
            now = model.state_dict()
            state = {name: in_shards_of(now.get(name), value) for name, value in state.items()}
        model.load_state_dict(state)
    except (AttributeError, RuntimeError) as error:
        raise ConfigError(f"build(seed) makes the model that is tested, with new weights: {error}") from error


def _training_loss(state: TrainState, train: Batches) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    """The loss of a few training samples, and its parameters.

    In float32, whatever the precision of the training; and not of the compiled model, which has no second derivative.
    """
    parts = [state.runtime.move(part) for part in part_of(train, SHARPNESS_SAMPLES)]
    sizes = [samples_in(part) for part in parts]

    def loss() -> Tensor:
        means = [means_of(state.loss(state.model, part)) for part in parts]
        weights = [part.weights.get("loss", n) for part, n in zip(means, sizes, strict=True)]
        return sum(part.loss * (weight / sum(weights)) for part, weight in zip(means, weights, strict=True))  # type: ignore[return-value]

    return loss, [p for group in state.optimizer.param_groups for p in group["params"]]


@dataclass(frozen=True)
class _UpdateBatches:
    """The batches of each update, together."""

    batches: Batches
    size: int

    def __len__(self) -> int:
        return updates_per_epoch(self.batches, self.size)  # type: ignore[return-value]  # None is a TypeError, as of len

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Any]]:
        return groups_of(self.batches.epoch(epoch, start), self.size)


def part_of(batches: Batches, samples: int) -> list[Any]:
    """Batches of about so many samples: evenly spaced where data have an index, else the first, which stay there."""
    if isinstance(batches, TensorBatches):
        index = _spaced(len(batches.tensors[0]), samples)
        tensors = tuple(tensor[index.to(tensor.device)] for tensor in batches.tensors)
        batches = replace(batches, tensors=tensors, batch_size=len(index), shuffle=False, drop_last=False)
    elif isinstance(batches, DatasetBatches):
        index = _spaced(len(batches.dataset), samples).tolist()  # type: ignore[arg-type]
        batches = replace(batches, dataset=Subset(batches.dataset, index), batch_size=len(index), shuffle=False)
    if isinstance(untransformed(batches), OneShotBatches):
        first = chain.from_iterable(takewhile(bool, (list(peeked(batches, i + 1).epoch(0, i)) for i in count())))
    else:
        first = batches.epoch(0)
    part: list[Any] = []
    for batch in first:
        part.append(batch)
        if sum(map(samples_in, part)) >= samples:
            break
    return part


def _spaced(n: int, samples: int) -> Tensor:
    return torch.linspace(0, n - 1, min(samples, n)).long()


def kind_of(optimizer: Optimizer) -> str:
    """How it makes an update of a gradient: one of `onecycle.range_test.peak.RULES`."""
    if isinstance(optimizer, SGD | ASGD):
        return "gradient"
    return "orthogonal" if "muon" in type(optimizer).__name__.lower() else "adaptive"


def _nothing_to_see(scouted: ScoutedRange, sweeps: Sequence[Sweep]) -> str | None:
    """Why the sweeps show nothing, where they do not."""
    if not scouted.moved and all(sweep.stopped == "end" for sweep in sweeps):
        return NEVER_MOVED
    shortest = min(sweeps, key=lambda sweep: len(sweep.lr))
    if len(shortest.lr) < SHORTEST / 2:
        return (
            f"after {text.count(len(shortest.lr), 'updates')} the training loss or the held-out loss was NaN or "
            "infinite: give a smaller lr_low, and look at the validation data"
        )
    return None


def source_of(batches: Any, seed: int, test: str = "range test") -> Batches:
    """`batches` as a `test` can go through them, again and again.

    Raises:
        DataError: an iterator, or fewer than two.
    """
    source = as_batches(batches, seed=seed)
    if isinstance(source, OneShotBatches):
        raise DataError(
            "an iterator ends, and what is read from it cannot be put back: give what it was made from, such as the "
            "DataLoader itself, or a list of batches"
        )
    if len(list(islice(source.epoch(0), 2))) < 2:
        raise DataError(
            f"a {test} needs at least 2 batches, to tell the learning rate's effect from a batch's: make the "
            "batches smaller"
        )
    return _reordered(source, seed)


@dataclass(frozen=True)
class _ReorderedBatches:
    """The batches of a list, in another order each epoch."""

    batches: Sequence[Any]
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return (self.batches[i] for i in epoch_order(len(self), self.seed, epoch)[start:].tolist())


def _reordered(source: Batches, seed: int) -> Batches:
    """`source`, in another order each epoch where it is a list: repeats in one order would agree too well."""
    return changed_within(
        source, lambda plain: _ReorderedBatches(plain.batches, seed) if isinstance(plain, ListBatches) else plain
    )


@contextmanager
def sampler_kept(loader: Any) -> Iterator[None]:
    """A sampler whose order follows from its epoch is at that epoch again afterwards."""
    sampler = getattr(loader, "sampler", None)
    epoch = getattr(sampler, "epoch", None)
    try:
        yield
    finally:
        if epoch is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)  # type: ignore[union-attr]


def swept_parts(
    optimizer: Optimizer | Sequence[Optimizer], model: nn.Module | Sequence[nn.Module] | None, *roots: Any
) -> tuple[list[Optimizer], list[nn.Module]]:
    """The optimizers that a step steps, checked, and the modules that it trains: those that the roots lead to."""
    optimizers = list(optimizer) if isinstance(optimizer, Iterable) else [optimizer]
    _check_optimizers(optimizers)
    optimizers = [inner(each) for each in optimizers]
    if model is None:
        parameters = [p for each in optimizers for group in each.param_groups for p in group["params"]]
        return optimizers, modules_of(parameters, *roots)
    return optimizers, [model] if isinstance(model, nn.Module) else list(model)


def _check_optimizers(optimizers: Sequence[Any]) -> None:
    if not optimizers or not all(isinstance(each, Optimizer) for each in optimizers):
        raise ConfigError(f"optimizer is a torch optimizer, or several; received {optimizers!r}")
    if not any(p.requires_grad for each in optimizers for group in each.param_groups for p in group["params"]):
        raise ConfigError("no weight of the optimizer is trained, all are frozen: give some requires_grad=True")
    for each in optimizers:
        if attached(inner(each)) is not None:
            raise ConfigError("a policy is attached to this optimizer: call its detach() before a range test")
