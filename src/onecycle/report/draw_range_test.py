"""The figures of a learning rate range test: losses, held-out accuracy and sharpness over the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..records.curve import Band, Curve, Sweep
from ..records.read import RecordedTest, items, number, part
from ..text import number as short
from .content import ANSWERS
from .matplotlib import draw
from .spec import LOG_FROM, TRAIN, VALID, VALUES, Figure, Key, Plots, Series, ends, mode, numbers, spans_decades

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TITLE = 90  # A longer line of the title is broken at its colon.
# A loss at the start is the median of so many values: the very first can be far off.
START = 5


@dataclass(frozen=True)
class Axis:
    """From `low`, a share of 0, to `high`, a share of 1, in even steps or (`log`) in even factors."""

    low: float
    high: float
    log: bool

    def share(self, values: Any) -> np.ndarray:
        low, high = self._scaled([self.low, self.high])
        return (self._scaled(values) - low) / ((high - low) or 1.0)

    def value(self, share: float) -> float:
        low, high = self._scaled([self.low, self.high])
        at = float(low + share * (high - low))
        return 10**at if self.log else at

    def _scaled(self, values: Any) -> np.ndarray:
        return np.log10(values) if self.log else np.asarray(values, dtype=float)


def range_figure(result: Mapping[str, Any]) -> Drawing:
    """Draw a range test against the learning rate: the losses, held-out accuracy and, where known, the sharpness.

    Thin lines are what was measured; bold ones the mean over the repeats, as far as two of them got, in a band from the
    lowest to the highest. The training loss is smoothed over the logarithm of the learning rate. The axis of the loss
    ends a little above the loss at the start: a divergence runs out of the picture. That of the learning rate is linear
    for a sweep in even steps.

    Args:
        result: what the file of a range test holds: ``curve`` with its ``sweeps``, each ``{"lr", "loss", "valid_lr",
            "valid_loss", "valid_accuracy"}`` of which any can be empty; and ``lr_min, lr_max, edge, reason, verdict,
            sharpness, title``, each of which can be missing or None.

    Raises:
        ConfigError: no measurement at all.
        DataError: not one value a learning rate, or one that is not finite.
        MissingDependency: matplotlib is not installed.

    >>> sweep = {"lr": [0.01, 0.1, 1], "loss": [2.3, 1.5, 9], "valid_lr": [0.1, 1], "valid_accuracy": [0.5, 0.1]}
    >>> figure = range_figure({"curve": {"sweeps": [sweep]}, "lr_min": 0.03, "lr_max": 0.3, "edge": 0.9})
    >>> [panel.get_title(loc="left") for panel in figure.axes]
    ['Loss against the learning rate', 'Held-out accuracy against the learning rate']
    """
    plots = recorded(result)
    return draw(plots, plots.figures, title=_title(result))


def recorded(result: Mapping[str, Any]) -> Plots:
    """The figures of what the file of a range test holds.

    Raises:
        ConfigError, DataError: as `range_figure`.
    """
    plots, curve = Plots(), Curve.from_dict(result["curve"])
    if not draw_test(plots, RecordedTest("", Path(), {"result": result}, curve)):
        raise ConfigError(
            f"a range test without a loss or an accuracy cannot be drawn; received {len(curve.sweeps)} sweeps"
        )
    return plots


def draw_test(plots: Plots, test: RecordedTest) -> dict[str, list[int]]:
    """What was seen at which learning rate: the suggested range shaded, the edge of divergence marked."""
    if test.curve is None or not any(sweep.loss or sweep.valid_lr for sweep in test.curve.sweeps):
        return {}
    result, curve, n = test.result, test.curve, len(test.curve.sweeps)
    peak, least, edge = (number(result.get(name)) for name in ("lr_max", "lr_min", "edge"))
    shade = (least, peak) if peak and least and least < peak else None
    said = "The suggested range is shaded." if shade else f"Dotted: the peak {peak:.3g}." if peak else ""
    said = said or "No learning rate is suggested."
    said += f" Dotted: training diverges above {edge:.3g}." if edge else ""
    said += (
        f" Bands: from the lowest to the highest of n = {n} repeats." if n > 1 else " One repeat: no spread is known."
    )
    common: dict[str, Any] = {
        "x": "learning rate", "kind": "linear" if is_linear(curve) else "log", "shade": shade,
        "marks": tuple(at for at in (None if shade else peak, edge) if at),
        "names": tuple(filter(None, labels(result))), "bands": f"lowest to highest of {n} repeats",
    }  # fmt: skip
    keys = [
        plots.key(Key("training, each update", TRAIN, faint=True)),
        plots.key(Key("training, smoothed", TRAIN)),
        plots.key(Key("held-out", VALID, "dash")),
    ]
    figures = [plots.figure(replace(figure, caption=said)) for figure in _measured(curve, keys, common)]
    return {"keys": keys, "figures": [*figures, *_sharpness(plots, result, common["kind"])]}


def labels(result: Mapping[str, Any]) -> tuple[str, str]:
    """What the suggested range and the edge are called; empty where there is none."""
    rates = [short(lr, 2) for name in ("lr_min", "lr_max") if (lr := number(result.get(name)))]
    edge = number(result.get("edge"))
    return f"suggested: {' to '.join(rates)}" if rates else "", f"edge of divergence: {short(edge, 2)}" if edge else ""


def loss_axis(sweeps: Sequence[Sweep]) -> Axis:
    """From the lowest loss to where a divergence is plain: half as far above the start as the loss fell below it."""
    losses = [loss for sweep in sweeps for loss in (sweep.loss, sweep.valid_loss) if loss]
    low, high = min(map(min, losses)), max(map(max, losses))
    begin = max(float(np.median(loss[:START])) for loss in losses)
    axis = Axis(low, begin, log=low > 0 and begin / low > LOG_FROM)
    return Axis(low, min(high, max(axis.value(1.5), begin + 0.1 * abs(begin))), axis.log)


def is_linear(curve: Curve) -> bool:
    """Whether the learning rates of the longest sweep rise by even steps rather than by even factors."""
    rates = max((rates for sweep in curve.sweeps for rates in (sweep.lr, sweep.valid_lr)), key=len)
    if len(rates) < 3 or min(rates) <= 0:
        return len(rates) > 2
    by_steps, by_factors = (np.std(np.diff(x)) / np.mean(np.diff(x)) for x in (rates, np.log(rates)))
    return bool(by_steps < by_factors)


def _measured(curve: Curve, keys: Sequence[int], common: Mapping[str, Any]) -> list[Figure]:
    """The losses, in a frame that a divergence leaves, and the accuracy."""
    each, mean, held = keys
    reach = sorted(max(sweep.lr + sweep.valid_lr) for sweep in curve.sweeps if sweep.lr + sweep.valid_lr)[-2:][0]
    figures = []
    if any(sweep.loss or sweep.valid_loss for sweep in curve.sweeps):
        axis = loss_axis(curve.sweeps)
        # One that exploded would hide the mean of the others, and what came before it.
        capped = Curve(tuple(_capped(sweep, axis.value(2)) for sweep in curve.sweeps))
        series = [Series(each, list(sweep.lr), list(sweep.loss)) for sweep in curve.sweeps if sweep.loss]
        series += [*_band(mean, capped.smooth_loss, reach), *_band(held, capped.valid_loss, reach)]
        frame = (axis.value(-0.05), axis.value(1.05)) if axis.high > axis.low else None
        title = "Loss against the learning rate"
        figures.append(Figure(title, "", y="loss", series=series, log=axis.log, frame=frame, **common))
    if curve.valid_accuracy.lr:
        series = _band(held, curve.valid_accuracy, reach)
        title = "Held-out accuracy against the learning rate"
        figures.append(Figure(title, "", y="accuracy", series=series, percent=True, **common))
    return figures


def _capped(sweep: Sweep, most: float) -> Sweep:
    return replace(sweep, **{name: np.minimum(getattr(sweep, name), most) for name in ("loss", "valid_loss")})


def _band(key: int, band: Band, reach: float) -> list[Series]:
    """The mean and the band of a quantity, up to the learning rate that two repeats got to."""
    known = np.array(band)[:, np.array(band.lr) <= reach]
    if not known.size:
        return []
    lr, mean, low, high = known
    return [Series(key, lr.tolist(), mean.tolist(), **ends(low, high), mode=mode(lr))]


def _sharpness(plots: Plots, result: Mapping[str, Any], kind: str) -> list[int]:
    """The largest eigenvalue beside what gradient descent bears, and the learning rate from gradients alone."""
    measures, lr = part(result, "sharpness"), np.array(items(part(result, "sharpness"), "lr"), dtype=float)
    drawn = [
        ("largest_eigenvalue", "Largest Hessian eigenvalue times learning rate", lr, "unstable above 2", 0 * lr + 2),
        ("hessian_free", "Hessian-free estimate of the learning rate", 1, "learning rate of the sweep", lr),
    ]
    figures = []
    for name, title, factor, limit, limits in drawn:
        values = np.array(items(measures, name), dtype=float)
        if len(values) == len(lr) and np.isfinite(values).any():
            series = [
                Series(plots.key(Key(limit, "#808080", "dash")), lr.tolist(), limits.tolist()),
                Series(plots.key(Key(title, VALUES[1])), lr.tolist(), numbers(values * factor), mode="lines+markers"),
            ]
            about = f"{title} (dashed: {limit})", "", "learning rate", title.lower(), kind, series
            figures.append(plots.figure(Figure(*about, log=spans_decades(series), named=True)))
    return figures


def _title(result: Mapping[str, Any]) -> str:
    """The verdict in words, why there is no suggestion, and what was tested: a line each, of those that are known."""
    verdict, reason = result.get("verdict"), result.get("reason")
    head = [ANSWERS[verdict["answer"]], *verdict.get("reasons", ())[:1]] if verdict else ["Learning rate range test"]
    none = ["No learning rate is suggested", reason] if reason and result.get("lr_max") is None else []
    lines = [(": " if len(": ".join(parts)) <= TITLE else ":\n").join(parts) for parts in (head, none)]
    return "\n".join(filter(None, [*lines, result.get("title")]))
