"""A policy says what each hyper-parameter of the optimizer is at each moment of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

from ..checks import is_number, number, unwrapped
from ..errors import ConfigError
from ..text import number as in_words
from .piecewise import Piecewise, Schedule, constant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Values of a schedule that its short form names.
MOST = 6
# What `updates` are, for messages about others.
WHOLE_RUN = "the number of updates of the whole run"


@dataclass(frozen=True)
class Policy:
    """A schedule for each scheduled hyper-parameter: ``{"lr": schedule, "momentum": schedule, ...}``.

    Args:
        schedules: by key of the optimizer's parameter groups (``lr``, ``weight_decay``, ...), a function of progress or
            a number for a constant. ``momentum`` means the key of that name or, where groups have ``betas``, the first
            of them. What is not named is left alone.
        layers: factors of the learning rate, from the first layer group to the last; () for the same one in all. A
            parameter group belongs to the layer group that its key ``layer`` counts.

    How the values reach an optimizer is in `onecycle.optim`: `onecycle.Driver` for a loop of your own.

    >>> policy = Policy({"lr": Piecewise(((0, 0.1), (1, 0))), "momentum": 0.9})
    >>> policy(0.5)
    {'lr': 0.05, 'momentum': 0.9}

    Raises:
        ConfigError: no ``lr``, a schedule that is neither a number nor callable, or a factor below 0.
    """

    schedules: Mapping[str, Schedule]
    layers: tuple[float, ...] = ()
    # For `onecycle.optim.groups.write`, by schedule: its name, the key of a group's ratio, and a function of progress;
    # or where it is a `Piecewise` its turns, None where it turns as the one before, and its spans.
    plan: tuple[tuple[Any, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.schedules, Mapping) or "lr" not in self.schedules:
            raise ConfigError(f'a policy names at least "lr", as in Policy({{"lr": 0.1}}); received {self.schedules!r}')
        checked = {name: _as_schedule(name, value) for name, value in self.schedules.items()}
        if not isinstance(self.layers, tuple | list):
            raise ConfigError(f"layers are factors of the learning rate, such as (0.1, 1); received {self.layers!r}")
        object.__setattr__(self, "schedules", checked)
        object.__setattr__(self, "plan", tuple(_plan(checked)))
        object.__setattr__(self, "layers", tuple(number("layers", v, least=0) for v in self.layers))

    def __repr__(self) -> str:
        """A line: the values that each schedule goes through.

        >>> Policy({"lr": Piecewise(((0, 0.1), (1, 0))), "momentum": 0.9})
        Policy(lr 0.1 to 0, momentum 0.9)
        """
        parts = {name: _in_short(schedule) for name, schedule in self.schedules.items()}
        if self.layers:
            parts["layers"] = _values(self.layers)
        return f"Policy({', '.join(f'{name} {values}' for name, values in parts.items())})"

    def __call__(self, progress: float) -> dict[str, float]:
        """The value of each hyper-parameter at `progress`, 0 at the first update and 1 at the last."""
        return {name: schedule(progress) for name, schedule in self.schedules.items()}

    @property
    def peak(self) -> float | None:
        """The largest learning rate; None where its schedule is a function.

        >>> Policy({"lr": Piecewise(((0, 0.1), (1, 0)))}).peak
        0.1
        """
        return getattr(self.schedules["lr"], "peak", None)

    def with_(self, **schedules: Schedule | float) -> Policy:
        """The same policy with some schedules replaced or added.

        >>> Policy({"lr": 0.1}).with_(weight_decay=1e-4)(0)
        {'lr': 0.1, 'weight_decay': 0.0001}
        """
        return replace(self, schedules={**self.schedules, **schedules})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a configuration file; `from_dict` is its inverse where every schedule is a `Piecewise`."""
        plain = {name: s.to_dict() if isinstance(s, Piecewise) else repr(s) for name, s in self.schedules.items()}
        return {**plain, "layers": list(self.layers)} if self.layers else plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """From ``{"lr": {"points": [[0, 0.1], [1, 0]], "easing": "cosine"}, "momentum": 0.9}``.

        Raises:
            ConfigError: anything else.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f'a policy has a schedule for each name, such as {{"lr": 0.1}}; received {data!r}')
        schedules = {k: Piecewise.from_dict(v) if isinstance(v, Mapping) else v for k, v in data.items()}
        return cls(schedules, schedules.pop("layers", ()))

    def plot(self, updates: int = 1000, *, updates_per_epoch: int | None = None, title: str | None = None) -> Figure:
        """Draw learning rate, momentum and the rest against updates, and epochs where `updates_per_epoch` is given."""
        from ..report.draw_policy import policy_figure

        values = [self(position(k, updates)) for k in range(updates)]
        return policy_figure(values, updates_per_epoch=updates_per_epoch, title=title)


def position(step: int, updates: int) -> float:
    """Progress of update `step` (from 0) of `updates`: ``step / (updates - 1)``, so that both ends are met.

    >>> position(0, 11), position(10, 11), position(0, 1)
    (0.0, 1.0, 0.0)
    """
    return step / (updates - 1) if updates > 1 else 0.0


def progress_after(applied: int, updates: int) -> float:
    """Progress of the update that follows on so many; past the last of `updates` it stays at the end.

    >>> progress_after(9, 11), progress_after(10, 11), progress_after(11, 11)
    (0.9, 1.0, 1.0)
    """
    return position(min(applied, updates - 1), updates)


def _plan(schedules: Mapping[str, Schedule]) -> Iterator[tuple[Any, ...]]:
    """What of the schedules is known before any progress."""
    before = None
    for name, schedule in schedules.items():
        if type(schedule) is Piecewise:
            yield name, name + "_ratio", None, None if schedule.turns == before else schedule.turns, schedule.spans
            before = schedule.turns
        else:
            yield name, name + "_ratio", schedule, None, None


def _in_short(schedule: Schedule) -> str:
    if isinstance(schedule, Piecewise):
        return _values([value for _, value in schedule.points])
    return getattr(schedule, "__name__", None) or type(schedule).__name__


def _values(values: Sequence[float]) -> str:
    """The values one after the other; of many the first, the second and the last."""
    words = [in_words(value) for value in values]
    return " to ".join(words if len(words) <= MOST else [*words[:2], "...", words[-1]])


def _as_schedule(name: str, value: Any) -> Schedule:
    if callable(value):
        return cast(Schedule, value)
    if isinstance(unwrapped(value), Real) and not isinstance(unwrapped(value), bool):
        return constant(float(value))
    raise ConfigError(f"the schedule of {name} is a number, a Piecewise or a function of progress; received {value!r}")


def layer_factors(peaks: slice, layers: int) -> tuple[float, tuple[float, ...]]:
    """The largest peak of ``slice(a, b)`` and each layer's share of it, from a to b in equal ratios.

    ``slice(b)`` gives all but the last a tenth, as in fastai. Source: Howard & Ruder, 1801.06146, section 3.2.

    >>> layer_factors(slice(0.01, 1.0), 3), layer_factors(slice(0.5), 3)
    ((1.0, (0.01, 0.1, 1.0)), (0.5, (0.1, 0.1, 1.0)))

    Raises:
        ConfigError: not 0 < a <= b.
    """
    low, high, last = peaks.start, peaks.stop, layers - 1
    if not is_number(high) or high <= 0 or not (low is None or (is_number(low) and 0 < low <= high)):
        raise ConfigError(f"lr_max=slice(a, b) takes 0 < a <= b, the first and last layers' peaks; received {peaks}")
    if low is None:
        return float(high), (0.1,) * last + (1.0,)
    return float(high), tuple((low / high) ** ((last - i) / max(1, last)) for i in range(layers))
