"""The figure of a comparison: accuracy against the budget, a line a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingDependency
from .plan import Setting, in_words
from .results import measure_of
from .statistics import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours with a mark each, told apart by colour-blind readers and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vPX"
# Panels side by side.
ACROSS = 3


def comparison_figure(record: Mapping[str, Any]) -> Figure:
    """Mean accuracy over seeds with its 95 % interval against epochs, from the contents of ``compare.json``.

    Raises:
        ConfigError: no run has an accuracy yet.
        MissingDependency: matplotlib is not installed.
    """
    rows, names = record["table"], list(record["config"]["axes"])
    measure = measure_of(rows)
    if measure is None:
        raise ConfigError("a figure of a comparison needs a run with an accuracy, and none is recorded here")
    settings: dict[str, tuple[Setting, list[Any]]] = {}
    for row in rows:
        setting = tuple((name, row[name]) for name in names)
        settings.setdefault(str(setting), (setting, []))[1].append(row)
    figure, panels = _panels(len(settings))
    for panel, (setting, mates) in zip(panels, settings.values(), strict=False):
        _draw(panel, mates, list(record["config"]["policies"]), measure)
        panel.set_title(in_words(setting), loc="left", fontsize="small")
    panels[0].set_ylabel(measure.replace("valid_", "validation ").replace("_", " "))
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("figures are drawn by matplotlib: pip install onecycle[plot]") from error
    across = min(n, ACROSS)
    down = -(-n // across)
    figure = Figure(figsize=(2 + 3.5 * across, 0.8 + 3 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for panel in panels[n:]:
        panel.set_visible(False)
    return figure, panels[:n]


def _draw(panel: Axes, rows: Sequence[Mapping[str, Any]], policies: Sequence[str], measure: str) -> None:
    for i, policy in enumerate(policies):
        found = summary([row for row in rows if row["policy"] == policy], by=["epochs"], value=measure)
        cells = sorted((cell for cell in found if cell["n"]), key=lambda cell: cell["epochs"])
        low, high = ([abs(c["mean"] - (c[end] if c[end] is not None else c["mean"])) for c in cells] for end in
                     ("low", "high"))  # fmt: skip
        panel.errorbar(
            [cell["epochs"] for cell in cells], [cell["mean"] for cell in cells], yerr=[low, high], label=policy,
            color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)], markersize=5, capsize=3, linewidth=1.5,
        )  # fmt: skip
    budgets = sorted({row["epochs"] for row in rows})
    panel.set_xscale("log")
    panel.set_xticks(budgets, [f"{e:g}" for e in budgets])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("epochs")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="0.9", linewidth=0.8)
