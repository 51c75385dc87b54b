"""The learning rate range test: which peak a 1cycle run can take, found by a short training that leaves no trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import ASGD, SGD, Optimizer

from .. import text
from ..data.batches import Batches, ListBatches, OneShotBatches, as_batches, epoch_order
from ..errors import CheckpointError, ConfigError, DataError, did_you_mean
from ..optim.driver import driver_of
from ..records.checkpoint import write_json
from ..records.curve import Curve, Sweep
from ..training.restore import modules_of
from ..training.signals import stop_requests
from .peak import Suggestion, suggest
from .sweep import ABOVE, BELOW, STILL, WILD, Found, Probe, Subject, batch_norms, scout, sweep
from .verdict import Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the epochs that the cost is counted in, and the share of them that a test may take.
EPOCHS, SHARE = 10, 0.05
# Updates of a whole test, all repeats and evaluations counted: at least, at most, and where an epoch has no length.
FEWEST, MOST, UNKNOWN = 64, 400, 200
# What all evaluations may cost beside the updates, and how many there are in a sweep.
EVALUATING, MEASUREMENTS = 1 / 3, 16
# Updates of a sweep, at least, and how much longer it may go on where its end is not the user's, to meet divergence.
SHORTEST, LONGER = 12, 1 / 4
SPACINGS = ("exponential", "linear")
NEVER_MOVED = (
    f"the loss did not move, whether an update changed the weights by {STILL:g} or by {WILD:g} of their size: does the "
    "step compute it with the weights that its optimizer has?"
)


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    `lr_max` is the peak for a 1cycle run of `epochs` epochs, `lr_min` where the learning rate begins to matter, `edge`
    where training diverges; None where the curve does not tell, and then `reason` says why. `decades` is the standard
    error of the peak over the repeats; `kind` and `batch_norm` are what `suggest` was told of the optimizer and the
    model. `cost` holds the updates, the evaluations, the seconds, and the updates as a share of a training of 10
    epochs. `sharpness`, where it was asked for, holds over the first sweep ``lr``, the Hessian's
    ``largest_eigenvalue``, and ``hessian_free``, an estimate of the best learning rate; None where there is no value.
    `folder` is where the test was written, `command` the one to go on with; None for a test that was begun in Python.
    """

    curve: Curve
    lr_max: float | None
    lr_min: float | None
    edge: float | None
    reason: str | None
    decades: float | None
    verdict: Verdict
    epochs: float
    kind: str
    batch_norm: bool
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
        rates = {"peak": self.lr_max, "it begins to matter at": self.lr_min, "edge of divergence": self.edge}
        rows = [(name, text.number(lr, 3)) for name, lr in rates.items() if lr is not None]
        reason = [("no peak", self.reason)] if self.reason else []
        return text.html_table([*rows, *reason, ("super-convergence", self.verdict.answer)], title=self.title)

    def peak(self, epochs: float) -> float | None:
        """The peak for a run of another length, in epochs.

        Raises:
            ConfigError: a length that is not above 0.
        """
        _check_positive("epochs", epochs)
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
        """The same for a terminal."""
        from ..report.terminal import range_text

        return "\n".join(range_text(self.to_dict(), width))

    def line(self) -> str:
        """The result in one line."""
        if self.lr_max is None:
            return f"no peak from the range test: {self.reason}"
        edge = "" if self.edge is None else f", diverges at {self.edge:.2g}"
        return f"peak learning rate {self.lr_max:.2g}, from a range test of {self.cost['updates']} updates{edge}"

    def save(self, path: str | Path) -> Path:
        """Write all of it as JSON.

        Raises:
            CheckpointError: the path cannot be written.
        """
        path = Path(path)
        try:
            write_json(path, self.to_dict())
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}. Give a path that can be written") from error
        return path


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
    probe: Probe | None = None,
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
        model: what `step` trains; None: the living modules that hold the optimizers' parameters.
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
    optimizers = list(optimizer) if isinstance(optimizer, Iterable) else [optimizer]
    _check(optimizers, updates, repeats, lr_low, lr_high, spacing, epochs)
    parameters = [p for each in optimizers for group in each.param_groups for p in group["params"]]
    modules = modules_of(parameters) if model is None else [model] if isinstance(model, nn.Module) else list(model)
    with stop_requests() as stop, _sampler_kept(batches):
        source = _source(batches, seed)
        subject = Subject(step, optimizers, source, evaluate, restart, modules, keep, seed, stop)
        found = scout(subject)
        per_epoch = _updates_per_epoch(source, subject.calls_per_update)
        n = sweep_updates(updates, default_updates(per_epoch), subject.updates, repeats, evaluate, lr_high is None)
        low, high = _ends(found, lr_low, lr_high, ABOVE if spacing == "exponential" else 1.0)
        rates = _rates(low, high, n, spacing, open_ended=lr_high is None)
        every = max(1, n // MEASUREMENTS)
        sweeps = tuple(sweep(subject, i, rates, every, None if i else probe) for i in range(repeats))
        subject.obey()
    curve = Curve(sweeps, found.edge if found.lost else None)
    kind, batch_norm = kind_of(optimizers[0]), bool(batch_norms(modules))
    cost = {"updates": subject.updates, "evaluations": sum(len(s.valid_lr) for s in sweeps)}
    cost |= {"share": subject.updates / (EPOCHS * per_epoch)} if per_epoch else {}
    cost |= {"seconds": round(time.perf_counter() - started, 3)}
    nothing = _nothing_to_see(found, sweeps)
    peak = (
        suggest(curve, epochs=epochs, kind=kind, batch_norm=batch_norm)
        if nothing is None
        else Suggestion(None, None, None, nothing)
    )
    return RangeTest(
        curve, peak.lr_max, peak.lr_min, peak.edge, peak.reason, peak.decades, judge(curve), epochs, kind,
        batch_norm, cost, title=title,
    )  # fmt: skip


def kind_of(optimizer: Optimizer) -> str:
    """How it makes an update of a gradient: one of `onecycle.range_test.peak.RULES`."""
    if isinstance(optimizer, SGD | ASGD):
        return "gradient"
    return "orthogonal" if "muon" in type(optimizer).__name__.lower() else "adaptive"


def default_updates(per_epoch: int | None) -> int:
    """The updates of a test that takes a twentieth of 10 epochs.

    >>> default_updates(300), default_updates(20)
    (150, 64)
    """
    return UNKNOWN if per_epoch is None else min(MOST, max(FEWEST, int(SHARE * EPOCHS * per_epoch)))


def sweep_updates(
    told: int | None, default: int, spent: int, repeats: int, evaluate: Any, open_ended: bool = False
) -> int:
    """The updates of each sweep, so that all of them, and what is `spent`, stay within the updates that were `told`.

    So do their evaluations, unless a sweep has to go on for longer. Where nothing was told, `default` does, or more
    where so many repeats need it.

    Raises:
        ConfigError: too few for a curve.
    """
    share = max(1 + EVALUATING if evaluate else 1.0, 1 + LONGER if open_ended else 1.0)
    need = math.ceil(spent + SHORTEST * repeats * share)
    allowed = max(default, need) if told is None else told
    if allowed < need:
        raise ConfigError(
            f"{allowed} updates are too few for {repeats} repeats of a range test: give updates={need} or more"
            + (", or fewer repeats" if repeats > 1 else "")
        )
    return int((allowed - spent) / (repeats * share))


def check_counts(updates: int | None, repeats: int) -> None:
    """Refuse what is no number of updates, None for the default, or of repeats.

    Raises:
        ConfigError: not a whole number, or less than 1.
    """
    for name, value in (("updates", 1 if updates is None else updates), ("repeats", repeats)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is a whole number, at least 1; received {value!r}")


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} is a finite number above 0; received {value!r}")


def _nothing_to_see(found: Found, sweeps: Sequence[Sweep]) -> str | None:
    """Why the sweeps show nothing, where they do not."""
    if not found.moved and all(sweep.stopped == "end" for sweep in sweeps):
        return NEVER_MOVED
    shortest = min(sweeps, key=lambda sweep: len(sweep.lr))
    if len(shortest.lr) < SHORTEST / 2:
        return (
            f"after {len(shortest.lr)} updates the training loss or the held-out loss was NaN or infinite: give a "
            "smaller lr_low, and look at the validation data"
        )
    return None


def _ends(found: Found, low: float | None, high: float | None, above: float) -> tuple[float, float]:
    """Those of the user, else about the edge that the scout found; where it found none, all that it saw.

    A linear sweep spends nearly all of its updates near its upper end, so that it ends at the edge, not `above` it.
    """
    top = found.edge * above if high is None else high
    bottom = min(found.edge, top) / BELOW if found.moved else min(found.still, top / BELOW)
    return bottom if low is None else low, top


def _rates(low: float, high: float, n: int, spacing: str, open_ended: bool) -> list[float]:
    """The learning rates of a sweep; one whose end is not the user's may go on a quarter longer, to meet divergence."""
    if low >= high:
        raise ConfigError(
            f"lr_low {low:g} is not below {high:g}, where training is lost: give a smaller lr_low, or lr_high too"
        )
    more = int(n * LONGER) if open_ended else 0
    if spacing == "linear":
        return [low + (high - low) * k / (n - 1) for k in range(n + more)]
    return [low * (high / low) ** (k / (n - 1)) for k in range(n + more)]


def _source(batches: Any, seed: int) -> Batches:
    source = as_batches(batches, seed=seed)
    if isinstance(source, OneShotBatches):
        raise DataError(
            "an iterator ends, and what is read from it cannot be put back: give what it was made from, such as the "
            "DataLoader itself, or a list of batches"
        )
    if len(list(islice(source.epoch(0), 2))) < 2:
        raise DataError(
            "a range test needs at least 2 batches, to tell the learning rate's effect from a batch's: make the "
            "batches smaller"
        )
    return reordered(source, seed)


@dataclass(frozen=True)
class _Reordered:
    """The batches of a list, each epoch in an order of its own."""

    batches: Sequence[Any]
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return (self.batches[i] for i in epoch_order(len(self), self.seed, epoch)[start:].tolist())


def reordered(source: Batches, seed: int) -> Batches:
    """`source`, in another order each epoch where it is a list: repeats in one order would agree too well."""
    return _Reordered(source.batches, seed) if isinstance(source, ListBatches) else source


@contextmanager
def _sampler_kept(loader: Any) -> Iterator[None]:
    """A sampler whose order follows from its epoch is at that epoch again afterwards."""
    sampler = getattr(loader, "sampler", None)
    epoch = getattr(sampler, "epoch", None)
    try:
        yield
    finally:
        if epoch is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _updates_per_epoch(source: Batches, calls: int) -> int | None:
    try:
        return max(1, len(source) // max(1, calls))
    except TypeError:
        return None


def _check(
    optimizers: Sequence[Any],
    updates: int | None,
    repeats: int,
    lr_low: float | None,
    lr_high: float | None,
    spacing: str,
    epochs: float,
) -> None:
    if not optimizers or not all(isinstance(each, Optimizer) for each in optimizers):
        raise ConfigError(f"optimizer is a torch optimizer, or several; received {optimizers!r}")
    if not any(p.requires_grad for each in optimizers for group in each.param_groups for p in group["params"]):
        raise ConfigError("no weight of the optimizer is trained, all are frozen: give some requires_grad=True")
    check_counts(updates, repeats)
    for name, value in (("lr_low", lr_low), ("lr_high", lr_high), ("epochs", epochs)):
        if value is not None or name == "epochs":
            _check_positive(name, value)
    if lr_low is not None and lr_high is not None and lr_low >= lr_high:
        raise ConfigError(
            f"the learning rates rise from lr_low to lr_high; received {lr_low:g} and {lr_high:g}: swap them"
        )
    if spacing not in SPACINGS:
        raise ConfigError(f"unknown spacing {spacing!r}: {did_you_mean(str(spacing), SPACINGS)}")
    for each in optimizers:
        if driver_of(each) is not None:
            raise ConfigError("a policy is attached to this optimizer: call driver.detach() before a range test")
