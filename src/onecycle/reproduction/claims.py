"""Whether a claim about means held: contrasts between cells of runs, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, DataError
from .protocol import Claim, Where

if TYPE_CHECKING:
    from ..experiments.statistics import Interval


@dataclass(frozen=True)
class Finding:
    """What became of a claim: the contrast with its 95 % interval, and what the interval says of the claim.

    "held": all of it is above what was claimed; "refuted": all of it is below; "undecided": it reaches to both sides,
    or there is none, with fewer than two seeds.
    """

    claim: Claim
    answer: Literal["held", "refuted", "undecided"]
    contrast: Interval


def settle(claim: Claim, rows: Iterable[Mapping[str, Any]], *, shares: bool = False) -> Finding:
    """Put a claim to the test on runs, each a record with ``seed``, ``value`` and what it was.

    Values are added and subtracted seed by seed, so that what the runs of one seed share cancels out. Those that are
    `shares`, from 0 to 1, have an interval that says nothing impossible.

    >>> claim = Claim("a is above b", plus=({"name": "a"},), minus=({"name": "b"},))
    >>> rows = [{"name": n, "seed": s, "value": v + s} for n, v in (("a", 2.0), ("b", 1.0)) for s in range(3)]
    >>> settle(claim, rows).answer
    'held'

    Raises:
        DataError: no seed for which all the cells have a value.
        ConfigError: a cell with two runs of one seed.
    """
    from ..experiments.statistics import mean_interval  # with scipy, which takes its time

    rows = list(rows)
    plus, minus = ([cell(rows, where) for where in wheres] for wheres in (claim.plus, claim.minus))
    common = set.intersection(*(set(values) for values in (*plus, *minus)))
    if not common:
        raise DataError(f"no seed has all the runs that are needed to tell whether {claim.text}")
    contrast = mean_interval(
        [sum(values[seed] for values in plus) - sum(values[seed] for values in minus) for seed in sorted(common)],
        within=(-len(minus), len(plus)) if shares else None,
    )
    low, high = contrast.low, contrast.high
    if low is None or high is None or low <= claim.than <= high:
        return Finding(claim, "undecided", contrast)
    return Finding(claim, "held" if low > claim.than else "refuted", contrast)


def cell(rows: Sequence[Mapping[str, Any]], where: Where) -> dict[int, float]:
    """The values by seed of the runs that `where` describes.

    Raises:
        ConfigError: two runs of one seed.
    """
    values: dict[int, float] = {}
    for row in rows:
        if is_in(row, where) and row["value"] is not None:
            if row["seed"] in values:
                raise ConfigError(f"{dict(where)} describes several runs of seed {row['seed']}: say more about it")
            values[row["seed"]] = row["value"]
    return values


def is_in(row: Mapping[str, Any], where: Where) -> bool:
    """Whether a run is one of those that `where` describes."""
    return all(key in row and plain(row[key]) == plain(value) for key, value in where.items())


def plain(value: Any) -> Any:
    """Lists and tuples alike."""
    return tuple(value) if isinstance(value, list) else value


def words(finding: Finding, scale: float = 100, unit: str = " points") -> str:
    """A sentence with the numbers: what was measured, its interval, and the limit that was claimed, if it is not 0."""
    claim, contrast = finding.claim, finding.contrast
    sign = 1 if claim.plus else -1  # a claim about what is small is said as such
    ends = sorted(sign * end for end in (contrast.low, contrast.high) if end is not None)
    interval = f"95 % interval {scale * ends[0]:.3g} to {scale * ends[1]:.3g}" if ends else "no interval"
    limit = f", {'above' if sign > 0 else 'below'} {sign * scale * claim.than:g}" if claim.than else ""
    differs = "+" if claim.plus and claim.minus else ""
    value = f"{sign * scale * contrast.mean:{differs}.3g}"
    return f"{finding.answer}: {claim.text} ({value}{unit}, {interval}{limit}, n = {contrast.n})."
