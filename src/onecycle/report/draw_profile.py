"""A profile: the share of each part of an update, samples a second by batch size, and both as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import text
from ..records.read import items, part
from ..text import fitted
from .content import profile_changes, profile_facts, profile_sentence, profile_spread
from .matplotlib import draw
from .spec import VALUES, Figure, Key, Plots, Series, style
from .tables import Table, profile_parts_table, profile_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

# Columns of the longest bar, and of a table that are left out first where it is too narrow.
BAR, LEAST = 32, ("memory", "80 % of updates", "times", "update")
BLOCKS = {False: "█▌", True: "##"}


def profile_figure(result: Mapping[str, Any]) -> Drawing:
    """Draw a profile: the share of each part of an update, and the samples a second by batch size and precision.

    Args:
        result: as `onecycle.profiling.result.Profile.to_dict` gives it.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    plots = Plots()
    drawn = draw_profile(plots, result)
    figures = drawn["bars"] + drawn["figures"]
    return draw(plots, [plots.figures[i] for i in figures], title=result.get("title") or None, across=2, common=False)


def draw_profile(plots: Plots, result: Mapping[str, Any]) -> dict[str, list[int]]:
    """The bars of the parts, and a curve for each precision where several sizes were measured."""
    shares = part(part(result, "present"), "shares")
    bars, figures, keys = [], [], []
    if shares:
        key = plots.key(Key("share of an update", VALUES[0]))
        series = Series(key, list(shares), list(shares.values()), mode="bars")
        said = f"Means over the middle half of the updates; all: {profile_spread(result)}."
        about = "Where an update's time goes", said, "", "share", "category"
        bars.append(plots.figure(Figure(*about, [series], percent=True, named=True, low=True)))
    lines = []
    for i, (precision, made) in enumerate(_by_precision(result).items()):
        if len(made) < 2:
            continue
        colour, dash = style(i)
        keys.append(plots.key(Key(precision, colour, dash)))
        sizes = [one["setting"]["batch_size"] for one in made]
        low, high = ([one["rate"] * one["seconds"] / one[end] for one in made] for end in ("high", "low"))
        lines.append(Series(keys[-1], sizes, [one["rate"] for one in made], low, high, mode="lines+markers"))
    if lines:
        said = "Bands: by the middle 80 % of the updates. A larger batch changes what is learned, not only the speed."
        about = "Samples a second by batch size", said, "batch size", "samples a second", "log"
        figures.append(plots.figure(Figure(*about, lines, bands="middle 80 % of updates")))
    return {"bars": bars, "keys": keys, "figures": figures}


def _by_precision(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The settings that are others in batch size and precision alone, the present precision first, by size."""
    present = part(part(result, "present"), "setting")
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    made = sorted(_measured(result), key=lambda one: one["setting"].get("batch_size") or 0)
    made.sort(key=lambda one: one["setting"].get("precision") != present.get("precision"))
    for one in made:
        setting = part(one, "setting")
        changed = {name for name in setting if setting[name] != present.get(name)}
        if changed <= {"batch_size", "precision"} and setting.get("batch_size"):
            kinds.setdefault(setting["precision"], []).append(one)
    return kinds


def _measured(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in (part(result, "present"), *items(result, "others")) if one and not one.get("failed")]


def profile_text(result: Mapping[str, Any], width: int | None = None, *, ascii: bool = False) -> list[str]:
    """A profile as lines no wider than `width`."""
    wide = max(24, width or 100)

    def wrapped(lines: Sequence[str], mark: str = "") -> list[str]:
        return [
            row for line in lines for row in textwrap.wrap(f"{mark}{line}", wide, subsequent_indent=" " * len(mark))
        ]

    lines = [*wrapped([result["title"]] if result.get("title") else []), *wrapped([profile_sentence(result)]), ""]
    if part(result, "present").get("parts"):
        lines += [*_bars(result, wide, ascii), ""]
    lines += [*aligned(profile_table(result), wide), ""]
    lines += ["What to change:", *wrapped(profile_changes(result), "- "), ""]
    lines += wrapped(profile_facts(result))
    lines += wrapped([f"Note: {note}." for note in items(result, "notes")])
    if left := items(result, "left_out"):
        lines += ["Not measured:", *wrapped(left, "- ")]
    spent, allowed = (text.duration(result[name]) for name in ("seconds", "budget"))
    return [*lines, *wrapped([f"It took {spent} of {allowed}. Everything is as before."])]


def _bars(result: Mapping[str, Any], width: int, ascii: bool) -> list[str]:
    """The parts with a bar for the share of each."""
    full, half = BLOCKS[ascii]
    lines = aligned(profile_parts_table(result), width)[1:]
    room = min(BAR, width - max(map(len, lines)) - 2)
    shares = list(part(part(result, "present"), "shares").values())
    if room < 4:
        return lines
    longest, most = max(map(len, lines)), max(shares)
    bars = [divmod(round(2 * room * share / most), 2) for share in shares]
    return [f"{line:<{longest}}  {full * n}{half * odd}".rstrip() for line, (n, odd) in zip(lines, bars, strict=True)]


def aligned(table: Table, width: int) -> list[str]:
    """A table as lines, numbers to the right, within `width`: without some of its columns, and with shorter names."""
    cells = fitted([table.columns, *([cell.text for cell in row] for row in table.rows)], width, LEAST)
    numeric = dict(zip(table.columns, table.numeric, strict=True))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [">" if numeric.get(name) else "<" for name in cells[0]]
    return [
        "  ".join(f"{cell:{side}{n}}" for cell, side, n in zip(row, sides, widths, strict=True)).rstrip()
        for row in cells
    ]
