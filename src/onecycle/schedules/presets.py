"""Named policies: functions of the peak learning rate and of the number of updates.

Each returns a plain `Policy` of `Piecewise` schedules. Progress is 0 at the first update and 1 at the last. Most
presets need only the peak; `author` and `torch` place their points by counting updates. Values are named `lr_start`,
`lr_max` and `lr_end`, and are learning rates, never divisors. `momentum` is ``(high, low)`` for a momentum that moves
against the learning rate, one number for a constant, or None to leave the optimizer's own alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from ..checks import is_number, number, one_of, share, whole
from ..errors import ConfigError, did_you_mean
from .piecewise import Piecewise
from .policy import WHOLE_RUN, Policy

Momentum = tuple[float, float] | float | None


def one_cycle(
    lr_max: float,
    updates: int | None = None,
    *,
    peak_at: float = 0.45,
    lr_start: float | None = None,
    lr_end: float | None = None,
    momentum: Momentum = None,
) -> Policy:
    """The default: the paper's three straight lines, with the momentum that the optimizer has.

    ``lr: (0, max / 10) (.45, max) (.9, max / 10) (1, max / 1000)``, linear. With another `peak_at` p the line down is
    as long as the line up, to ``(2 p, lr_start)``; from p = .5 on it goes straight to `lr_end`.

    Chosen by measurement (docs/log.md, "The shape of the default"): of 14 shapes, each at its own best peak, on two
    data sets with SGD and AdamW at 2 and 8 epochs, this one had the best mean. Straight lines beat half cosines by 0.3
    points of accuracy; cycling momentum changed nothing.

    Source: Smith, 1803.09820, section 4.1.

    >>> one_cycle(0.5)(0.45)
    {'lr': 0.5}
    """
    lr_max = _check(lr_max, updates, lr_start=lr_start, lr_end=lr_end)
    start = lr_max / 10 if lr_start is None else lr_start
    end = lr_max / 1000 if lr_end is None else lr_end
    share("peak_at", peak_at, of="the run", zero=False)
    tail = [(2 * peak_at, start)] if peak_at < 0.5 else []

    def against(high: float, low: float) -> Piecewise:
        return Piecewise(((0, high), (peak_at, low), *((x, high) for x, _ in tail), (1, high)))

    return _with_momentum(Piecewise(((0, start), (peak_at, lr_max), *tail, (1, end))), momentum, against)


def paper(lr_max: float, updates: int | None = None, *, momentum: Momentum = (0.95, 0.85)) -> Policy:
    """The 1cycle policy as the text has it: two lines of equal length, then a tail far below the start.

    ``lr: (0, max / 10) (.45, max) (.9, max / 10) (1, max / 1000)``, linear; momentum .95, .85, .95, .95.

    Source: Smith, 1803.09820, section 4.1, and Smith & Topin, 1708.07120, section 3.

    >>> paper(1.0)(0.45)
    {'lr': 1.0, 'momentum': 0.85}
    """
    return one_cycle(lr_max, updates, momentum=momentum)


def author(
    lr_max: float,
    updates: int | None = None,
    *,
    lr_start: float | None = None,
    stepsize: int | None = None,
    momentum: Momentum = (0.95, 0.85),
) -> Policy:
    """The 1cycle policy as the author's own runs have it, update by update (k from 0, S = `stepsize`).

    Up: ``lr_start + (lr_max - lr_start) k / S``. Down: ``max(lr_start / 1000, lr_max (2 S - k) / S)``: towards zero,
    then a constant tail. Momentum: ``m0 + (m1 - m0) max(0, 1 - |x|) / 2^c`` with ``c = floor(k / 2S)`` and
    ``x = (k - (2 c + 1) S) / S``, so that it falls half as far in a second cycle. Without `stepsize`, S is 45 % of
    the run; without `lr_start`, it is ``lr_max / 10``.

    Source: the learning rates and momenta logged in github.com/lnsmith54/hyperParam1 (Smith, 1803.09820).

    >>> author(1.0, 101, stepsize=45, lr_start=0.1)(0.45)
    {'lr': 1.0, 'momentum': 0.85}

    Raises:
        ConfigError: a `stepsize` without `updates`.
    """
    lr_max = _check(lr_max, updates, lr_start=lr_start)
    if stepsize is not None and (updates is None or updates < 2 or stepsize < 1):
        raise ConfigError(f"stepsize={stepsize!r} counts updates (at least 1): the number of updates is needed too")
    half = 0.45 if stepsize is None or updates is None else stepsize / (updates - 1)
    start = lr_max / 10 if lr_start is None else lr_start
    lr = Piecewise(((0, start), (half, lr_max), (2 * half - half * start / (1000 * lr_max), start / 1000)))
    cycles = math.ceil(1 / (2 * half))

    def swing(high: float, low: float) -> Piecewise:
        points = [(0.0, high)]
        for c in range(cycles):
            points += [((2 * c + 1) * half, high + (low - high) * 0.5**c), ((2 * c + 2) * half, high)]
        return Piecewise(tuple(points))

    return _with_momentum(lr, momentum, swing)


def fastai(
    lr_max: float, updates: int | None = None, *, peak_at: float = 0.25, momentum: Momentum = (0.95, 0.85)
) -> Policy:
    """fastai 2.8's `fit_one_cycle`: two half cosines, ``(0, max / 25) (.25, max) (1, max / 1e5)``; momentum against it.

    fastai itself reads the curve at ``k / T``, so that its last update misses the end; here it is met.

    Source: github.com/fastai/fastai, `fastai/callback/schedule.py`, `fit_one_cycle`.

    >>> fastai(1.0)(0.25)
    {'lr': 1.0, 'momentum': 0.85}
    """
    lr_max = _check(lr_max, updates)
    share("peak_at", peak_at, of="the run", zero=False)

    def through(first: float, middle: float, last: float) -> Piecewise:
        return Piecewise(((0, first), (peak_at, middle), (1, last)), "cosine")

    return _with_momentum(
        through(lr_max / 25, lr_max, lr_max / 1e5), momentum, lambda high, low: through(high, low, high)
    )


def torch(
    lr_max: float,
    updates: int | None = None,
    *,
    peak_at: float = 0.3,
    lr_start: float | None = None,
    lr_end: float | None = None,
    easing: str = "cosine",
    three_phase: bool = False,
    momentum: Momentum = (0.95, 0.85),
) -> Policy:
    """torch's `OneCycleLR`, by default at its defaults, update for update, and defined where it divides by zero.

    ``(0, max / 25) ((peak_at T - 1) / (T - 1), max) (1, max / 25e4)``, T = `updates`; without T the peak is at
    `peak_at`. With `three_phase` it is back at its start as many updates after the peak as the peak is after the first,
    and goes on to its end from there. At T = 1 the only update takes the last value, as torch's does.

    Source: `torch.optim.lr_scheduler.OneCycleLR`.

    >>> torch(1.0, 11)(0.23)
    {'lr': 1.0, 'momentum': 0.85}
    """
    lr_max = _check(lr_max, updates, lr_start=lr_start, lr_end=lr_end)
    one_of("easing", easing, ("cosine", "linear"))
    share("peak_at", peak_at, of="the run", one=True)
    start = lr_max / 25 if lr_start is None else lr_start
    end = lr_max / 25e4 if lr_end is None else lr_end
    if updates == 1:
        return _with_momentum(Piecewise(((0, end),)), momentum, lambda high, low: Piecewise(((0, high),)))
    total, last = (1.0, 1.0) if updates is None else (updates, updates - 1)
    lead = float(updates is not None)
    turns = [0.0, peak_at * total - lead, *([2 * peak_at * total - 2 * lead] if three_phase else []), last]
    # A short run can have its peak, and the end of its second phase, before its first update, and a late peak leaves no
    # room for what follows.
    kept = [i for i, x in enumerate(turns[:-1]) if all(x < later for later in turns[i + 1 : -1])]
    kept += [len(turns) - 1] if turns[kept[-1]] < last else []

    def through(first: float, middle: float, final: float) -> Piecewise:
        values = [first, middle, *([first] if three_phase else []), final]
        return Piecewise(tuple((turns[i] / last, values[i]) for i in kept), easing)

    return _with_momentum(through(start, lr_max, end), momentum, lambda high, low: through(high, low, high))


def clr(
    lr_max: float,
    updates: int | None = None,
    *,
    lr_min: float | None = None,
    cycles: int = 1,
    mode: str = "triangular",
    momentum: Momentum = None,
) -> Policy:
    """Cyclical learning rates: `cycles` triangles from `lr_min` (``lr_max / 4``) to `lr_max` and back.

    `mode` "triangular2" halves the height of each cycle after the first.

    Source: Smith, 1506.01186, section 3.

    >>> clr(0.4, cycles=2)(0.25), clr(0.4, cycles=2, mode="triangular2")(0.75)
    ({'lr': 0.4}, {'lr': 0.25})
    """
    lr_max = _check(lr_max, updates, lr_min=lr_min)
    one_of("mode", mode, ("triangular", "triangular2"))
    whole("cycles", cycles)
    shrink = 2 if mode == "triangular2" else 1

    def waves(low: float, high: float) -> Piecewise:
        points = [(0.0, low)]
        for c in range(cycles):
            points += [((c + 0.5) / cycles, low + (high - low) / shrink**c), ((c + 1) / cycles, low)]
        return Piecewise(tuple(points))

    return _with_momentum(waves(lr_max / 4 if lr_min is None else lr_min, lr_max), momentum, waves)


def wsd(
    lr_max: float,
    updates: int | None = None,
    *,
    warmup: float = 0.05,
    decay: float = 0.2,
    lr_start: float = 0.0,
    lr_end: float = 0.0,
    momentum: Momentum = None,
) -> Policy:
    """Warm-up, stable, decay: `warmup` and `decay` are shares of the run; the decay goes as 1 - sqrt.

    Source: Haegele et al., 2405.18392, section 3.

    >>> wsd(1.0, warmup=0.1, decay=0.5)(0.625)
    {'lr': 0.5}
    """
    lr_max = _check(lr_max, updates, lr_start=lr_start, lr_end=lr_end)
    if not (warmup >= 0 and decay > 0 and warmup + decay <= 1):
        raise ConfigError(f"warmup and decay are shares of the run, together at most 1; received {warmup} and {decay}")
    stable = [(1 - decay, lr_max)] if warmup < 1 - decay else []
    easings = [*["hold"] * len(stable), "one-minus-sqrt"]
    return _after_warmup([*stable, (1, lr_end)], easings, lr_max, warmup, momentum, lr_start)


def step(
    lr_max: float,
    updates: int | None = None,
    *,
    at: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
    warmup: float = 0.0,
    momentum: Momentum = None,
) -> Policy:
    """Step decay: the learning rate times `factor` at each share of the run in `at`.

    Source: the piecewise-constant baseline of Smith & Topin, 1708.07120, section 5, and He et al., 1512.03385.

    >>> [step(1.0)(x)["lr"] for x in (0, 0.5, 1)]
    [1.0, 0.1, 0.010000000000000002]
    """
    lr_max = _check(lr_max, updates, factor=factor)
    drops = [(x, lr_max * factor ** (i + 1)) for i, x in enumerate(at)]
    return _after_warmup(drops, ["hold"] * len(drops), lr_max, warmup, momentum)


def cosine(
    lr_max: float, updates: int | None = None, *, warmup: float = 0.0, lr_end: float = 0.0, momentum: Momentum = None
) -> Policy:
    """Cosine annealing from the peak to `lr_end`, after a linear warm-up over a share `warmup` of the run.

    Source: Loshchilov & Hutter, 1608.03983, without restarts.

    >>> cosine(1.0)(0.5)
    {'lr': 0.5}
    """
    lr_max = _check(lr_max, updates, lr_end=lr_end)
    return _after_warmup([(1, lr_end)], ["cosine"], lr_max, warmup, momentum)


def linear(
    lr_max: float, updates: int | None = None, *, warmup: float = 0.0, lr_end: float = 0.0, momentum: Momentum = None
) -> Policy:
    """A straight line from the peak to `lr_end`, after a linear warm-up over a share `warmup` of the run.

    Source: Li et al., Budgeted training, 1905.04753; Defazio et al., 2310.07831.

    >>> linear(1.0)(0.75)
    {'lr': 0.25}
    """
    lr_max = _check(lr_max, updates, lr_end=lr_end)
    return _after_warmup([(1, lr_end)], ["linear"], lr_max, warmup, momentum)


def constant(lr_max: float, updates: int | None = None, *, warmup: float = 0.0, momentum: Momentum = None) -> Policy:
    """The same learning rate throughout, after a linear warm-up over a share `warmup` of the run.

    >>> constant(0.1)(0.7)
    {'lr': 0.1}
    """
    lr_max = _check(lr_max, updates)
    return _after_warmup([], [], lr_max, warmup, momentum)


def extension(
    lr_max: float,
    updates: int | None = None,
    *,
    warmup: float = 0.1,
    lr_start: float | None = None,
    lr_end: float | None = None,
    momentum: Momentum = None,
) -> Policy:
    """Going on from the end of an annealed run: soon back at its peak, and down in one straight line.

    ``lr: (0, max / 20) (.1, max) (1, max / 1000)``, linear; `warmup` is the share of the extension on the way up.

    Chosen by measurement (docs/log.md, "Going on from a finished run"): from the end of a run of n epochs, n more come
    where 2 n from scratch come; a lower peak, a second cycle and states from before the annealing come less far.

    >>> extension(1.0)(0.1), extension(1.0)(0.55)
    ({'lr': 1.0}, {'lr': 0.5005})
    """
    lr_max = _check(lr_max, updates, lr_start=lr_start, lr_end=lr_end)
    start = lr_max / 20 if lr_start is None else lr_start
    end = lr_max / 1000 if lr_end is None else lr_end
    share("warmup", warmup, of="the run", zero=False)

    def through(first: float, middle: float, last: float) -> Piecewise:
        return Piecewise(((0, first), (warmup, middle), (1, last)))

    return _with_momentum(through(start, lr_max, end), momentum, lambda high, low: through(high, low, high))


PRESETS: dict[str, Callable[..., Policy]] = {
    make.__name__: make
    for make in (one_cycle, paper, author, fastai, torch, clr, wsd, step, cosine, linear, constant, extension)
}


def preset(name: str, lr_max: float, updates: int | None = None, **options: Any) -> Policy:
    """The preset `name` as a policy; `options` are its own keywords.

    >>> preset("fastai", 1.0)(0.25)
    {'lr': 1.0, 'momentum': 0.85}

    Raises:
        ConfigError: an unknown name or option, or a peak that is not a positive number.
    """
    make = PRESETS[one_of("preset", name, PRESETS)]
    for key in options:
        known = [name for name in inspect.signature(make).parameters if name not in ("lr_max", "updates")]
        if key not in known:
            raise ConfigError(f"the preset {name} has no option {key!r}: {did_you_mean(str(key), known)}")
    try:
        return make(lr_max, updates, **options)
    except TypeError as error:
        raise ConfigError(f"preset {name}: {error}") from error


def peak_number(lr_max: Any) -> float:
    """The peak learning rate as a number above 0.

    Raises:
        ConfigError: it is none.
    """
    return number("lr_max", lr_max, above=0, what="the peak learning rate", example="0.1")


def momenta(momentum: Any) -> tuple[float, ...]:
    """A momentum as one number, or as the high and the low of its cycle.

    Raises:
        ConfigError: neither, or a number outside [0, 1).

    >>> momenta(0.9), momenta([0.95, 0.85])
    ((0.9,), (0.95, 0.85))
    """
    values = tuple(momentum) if isinstance(momentum, tuple | list) else (momentum,)
    if not 1 <= len(values) <= 2 or not all(is_number(value) and 0 <= value < 1 for value in values):
        raise ConfigError(
            "momentum is a number, or two (high, low), at least 0 and below 1, such as (0.95, 0.85); "
            f"received {momentum!r}"
        )
    return tuple(float(value) for value in values)


def _check(lr_max: Any, updates: Any, **others: Any) -> float:
    """Validate the arguments that every preset has and return the peak; `others` may be None, or 0 and above."""
    if updates is not None:
        whole("updates", updates, what=WHOLE_RUN)
    for name, value in others.items():
        if value is not None:
            number(name, value, least=0)
    return peak_number(lr_max)


def _after_warmup(
    points: list[tuple[float, float]],
    easings: list[str],
    lr_max: float,
    warmup: float,
    momentum: Momentum,
    lr_start: float = 0.0,
) -> Policy:
    """From `lr_start` to the peak over a share `warmup` of the run, then through `points`."""
    share("warmup", warmup, of="the run")
    ramp = [(0.0, lr_start), (warmup, lr_max)] if warmup else [(0.0, lr_max)]
    lr = Piecewise((*ramp, *points), (*["linear"] * (len(ramp) - 1), *easings))
    return _with_momentum(lr, momentum, None)


def _with_momentum(lr: Piecewise, momentum: Momentum, shape: Callable[[float, float], Piecewise] | None) -> Policy:
    if momentum is None:
        return Policy({"lr": lr})
    values = momenta(momentum)
    if len(values) == 1:
        return Policy({"lr": lr}).with_(momentum=values[0])
    if shape is None:
        raise ConfigError(f"this preset has no cycle for momentum to follow: give one number; received {momentum!r}")
    return Policy({"lr": lr, "momentum": shape(*values)})
