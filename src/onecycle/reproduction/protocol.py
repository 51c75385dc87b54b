"""What is reproduced, as plain data: a published claim, the runs that put it to the test, and what was published."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ..errors import ConfigError, did_you_mean
from ..text import listed

NAMES = (
    "schedule", "range-test", "accuracy", "limited-data", "batch-size", "weight-decay", "dropout", "momentum",
)  # fmt: skip
# Two CPU cores and ten minutes; two cores and about an hour; the paper's own protocol, for a GPU.
SIZES = ("small", "cpu", "paper")
Where = Mapping[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Claim:
    """A statement about means: the sum over the cells `plus`, less that over the cells `minus`, is above `than`.

    A cell is the runs whose record has the values of a mapping, such as ``{"policy": "one_cycle", "epochs": 5}``.
    """

    text: str
    plus: tuple[Where, ...] = ()
    minus: tuple[Where, ...] = ()
    than: float = 0.0


@dataclass(frozen=True)
class Line:
    """A line of the figure: the runs whose record has these values."""

    label: str
    where: Where


@dataclass(frozen=True)
class Panel:
    """A panel of the figure: its title, what its axes show, and whether x is logarithmic."""

    title: str
    x: str
    y: str
    log: bool = False


@dataclass(frozen=True)
class Protocol:
    """How a published figure is reproduced, at one size.

    `kind` is "comparisons", "range-tests" or "schedules": what `parts` describe, each with the settings of `common`
    below its own. The first of `claims` is the published one; the others help to read it. Without `by`, the lines of
    the figure are curves over training; with it, points over that setting.
    """

    name: str
    size: str
    title: str
    claim: str
    source: str
    published: Panel
    panel: Panel
    kind: str
    common: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]
    lines: tuple[Line, ...]
    by: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Repeats of everything."""
        return self.options.get("repeats") or self.common["seeds"]


def read(name: str, size: str = "small") -> Protocol:
    """The protocol `name` at one of `SIZES`.

    Raises:
        ConfigError: an unknown name or size.

    >>> read("accuracy").claims[0].text
    '1cycle in 4 epochs is above step decay in 32'
    """
    if name not in NAMES:
        raise ConfigError(f"nothing is known to reproduce as {name!r}: {did_you_mean(name, NAMES)}")
    values = tomllib.loads(_file("protocols", f"{name}.toml"))
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r}: {did_you_mean(str(size), SIZES)}")
    if size not in (known := _sizes_in(values)):
        raise ConfigError(f"{name} has no size {size!r}, but {listed(known)}")
    own = dict(values[size])
    return Protocol(
        name=name,
        size=size,
        **{key: values[key] for key in ("title", "claim", "source")},
        published=Panel(**values["published"]),
        panel=Panel(**{key: own.pop(key) for key in ("title", "x", "y", "log") if key in own}),
        claims=tuple(
            Claim(c["text"], tuple(c.get("plus", ())), tuple(c.get("minus", ())), c.get("than", 0.0))
            for c in own["claims"]
        ),
        lines=tuple(Line(**line) for line in own["lines"]),
        **{key: value for key, value in own.items() if key not in ("claims", "lines")},
    )


def sizes(name: str) -> list[str]:
    """The sizes that a protocol has.

    >>> sizes("accuracy"), sizes("schedule")
    (['small', 'cpu', 'paper'], ['small'])
    """
    return _sizes_in(tomllib.loads(_file("protocols", f"{name}.toml")))


def _sizes_in(values: Mapping[str, Any]) -> list[str]:
    return [size for size in SIZES if size in values]


def published(name: str) -> dict[str, Points]:
    """What the author published for it: (x, y) of each of its lines, as ``published/README.md`` describes them.

    >>> published("weight-decay")["1cycle, .1 to 3"][:2]
    [(0.001, 0.09952), (0.0001, 0.9244)]
    """
    lines: dict[str, Points] = {}
    for row in csv.DictReader(_file("published", f"{name}.csv").splitlines()):
        lines.setdefault(row["series"], []).append((float(row["x"]), float(row["y"])))
    return lines


def _file(folder: str, name: str) -> str:
    return (resources.files("onecycle.reproduction") / folder / name).read_text(encoding="utf-8")
