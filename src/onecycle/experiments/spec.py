"""What a comparison is, as plain data: policies, budgets, seeds, and the hyper-parameters that are varied."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checks import flag, one_of, share, unless_none, unwrapped, whole, word
from ..errors import ConfigError, did_you_mean
from ..jobs.job import Job
from ..schedules.budget import Budget
from ..schedules.presets import PRESETS, peak_number
from .options import HERE, Placement

# Options of the reference models, which can be varied as the fields of a job can.
MODEL_OPTIONS = ("dropout", "hidden", "width", "depth", "heads", "bn_momentum")
# Hyper-parameters with an option of their own in the shell; the others are given by --set.
IN_SHELL = ("fraction", "batch_size", "weight_decay", "dropout", "optimizer", "momentum", "limit", "leave_out")
# The field of a job that is a list itself: a list of lists makes it an axis.
LISTED = "leave_out"
# Fields of a job that a comparison has its own words for.
OWN_WORDS = {"budget": "epochs", "policy": "policies", "seed": "seeds"}
# Those that it decides by itself: every run of a comparison has its peak, and none is searched within it.
DECIDED = ("lr_max", "search", "balance")
ALLOWED = (
    *(f.name for f in fields(Job) if f.name not in {*OWN_WORDS, *DECIDED, "extend", "track"}), "fraction",
    *MODEL_OPTIONS,
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A comparison of training policies on one task.

    `policies` are names of presets; `epochs` the budgets; each condition is run with the seeds 0 to ``seeds - 1``, the
    same for all policies. `axes` are hyper-parameters with the values each is to take, all combined; `settings` those
    with one value: fields of a `Job`, options of the model such as dropout, or ``fraction``, the share of the training
    data. With `tune`, each policy gets its own peak learning rate at each budget, from `trials` trial runs or a few
    more; without, `lr_max` has it: one for all policies, or one by the name of each.

    Raises:
        ConfigError: an unknown policy, axis or option, no values or one twice, and a policy without a peak.
    """

    data: str = "digits"
    model: str | None = None
    policies: tuple[str, ...] = ("one_cycle", "step", "cosine", "constant")
    epochs: tuple[float, ...] = (2, 4, 8)
    seeds: int = 5
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tune: bool = True
    lr_max: float | Mapping[str, float] | None = None
    trials: int = 5

    def __post_init__(self) -> None:
        _check_values("policies", self.policies)
        _check_values("epochs", self.epochs)
        for policy in self.policies:
            one_of("policy", policy, PRESETS)
        checked = {
            "data": word("data", self.data, "a name or a path"),
            "model": unless_none(word, "model", self.model, "a name, or package.module:callable"),
            "epochs": tuple(Budget(epochs=unwrapped(epochs)).epochs for epochs in self.epochs),
            "seeds": whole("seeds", self.seeds, what="the number of runs of each condition"),
            "trials": whole("trials", self.trials, least=3, what="the number of trial runs for each policy and budget"),
            "axes": _table("axes", self.axes),
            "settings": _table("settings", self.settings),
            "tune": flag("tune", self.tune),
            "lr_max": _peaks(self.lr_max),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        _check_axes(self.axes, self.settings)
        _check_peaks(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """From plain data, in which a hyper-parameter with a list of values is an axis.

        `leave_out` is a list by itself, and an axis as a list of lists.

        >>> spec = Spec.from_dict({"policies": ["one_cycle", "step"], "batch_size": [64, 256], "optimizer": "sgd"})
        >>> spec.policies, spec.axes, spec.settings
        (('one_cycle', 'step'), {'batch_size': (64, 256)}, {'optimizer': 'sgd'})
        """
        names = [f.name for f in fields(cls)]
        given = {name: value for name, value in values.items() if name in names}
        rest = {name: value for name, value in values.items() if name not in names}
        varied = {k: v for k, v in rest.items() if isinstance(v, list) and not _is_one_list(k, v)}
        axes = {**_table("axes", given.pop("axes", {})), **varied}
        settings = {**_table("settings", given.pop("settings", {})), **{k: rest[k] for k in rest if k not in varied}}
        for name in ("policies", "epochs"):
            if name in given:
                given[name] = _tuple(given[name])
        axes = {name: tuple(map(_frozen, _tuple(values))) for name, values in axes.items()}
        return cls(**given, axes=axes, settings={k: _frozen(v) for k, v in settings.items()})

    @classmethod
    def read(cls, path: str | Path) -> Spec:
        """From a TOML file.

        Raises:
            ConfigError: no such file, or one that is not TOML; and as for `Spec`.
        """
        return cls.from_dict(read_toml(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `from_dict` reads it."""
        return asdict(self)

    def peak(self, policy: str) -> float | None:
        """The peak that was given for `policy`; None where it is tuned."""
        return self.lr_max.get(policy) if isinstance(self.lr_max, Mapping) else self.lr_max


def command_of(spec: Spec, folder: Path, placement: Placement = HERE) -> str | None:
    """The command that makes a comparison, or goes on with it; None where its values cannot be given in a shell.

    >>> spec = Spec.from_dict({"data": "cifar10", "epochs": [4, 8], "batch_size": [64, 256], "image_size": 16})
    >>> command_of(spec, Path("out"))
    'onecycle compare cifar10 --epochs 4,8 --batch-size 64,256 --set image_size=16 --out out'
    """
    words = ["onecycle", "compare", spec.data]
    try:
        for f in fields(Spec):
            value = getattr(spec, f.name)
            if f.name in ("data", "axes", "settings") or value == f.default:
                continue
            if f.name == "tune":
                words.append("--no-tune")
            elif isinstance(value, Mapping):
                words += ["--lr-max", ",".join(f"{policy}={_in_shell(peak)}" for policy, peak in value.items())]
            else:
                words += [f"--{f.name.replace('_', '-')}", _in_shell(value)]
        for name, value in {**spec.axes, **spec.settings}.items():
            if name == LISTED and name in spec.axes:
                return None
            text = _in_shell(value) + ("," if name in spec.axes and len(value) == 1 else "")
            if isinstance(value, tuple) and name not in spec.axes and name != LISTED:
                return None
            words += [f"--{name.replace('_', '-')}", text] if name in IN_SHELL else ["--set", f"{name}={text}"]
    except TypeError:
        return None
    return shlex.join([*words, *placement.in_shell(), "--out", str(folder)])


def _in_shell(value: Any) -> str:
    """A value as the command reads it.

    Raises:
        TypeError: it cannot be given there.
    """
    if isinstance(value, tuple):
        return ",".join(map(_in_shell, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if float(f"{value:g}") != value else f"{value:g}"
    if (
        not isinstance(value, str)
        or not re.fullmatch(r"[^\s,=]*[^\s,=\d.][^\s,=]*", value)
        or value in ("true", "none")
    ):
        raise TypeError(f"{value!r} cannot be given in a shell")
    return value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The plain data in a TOML file.

    Raises:
        ConfigError: no such file, or one that is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the TOML file {str(path)!r}: {error}") from error


def _check_axes(axes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name in (*axes, *settings):
        if name in OWN_WORDS:
            raise ConfigError(f"{name} is no axis of a comparison: its values are given as {OWN_WORDS[name]}")
        if name in DECIDED:
            raise ConfigError(
                f"{name} is no axis of a comparison, which tunes the peak of each policy itself and searches nothing "
                "within its runs: leave it out, or give the peaks as lr_max without the tuning (--no-tune)"
            )
        if name == "model_options" and name in axes:
            raise ConfigError("options of a model are varied by their own names, such as dropout, not as model_options")
        if name not in ALLOWED:
            known = [*ALLOWED, *(f.name for f in fields(Spec))]
            raise ConfigError(f"unknown axis {name!r}: {did_you_mean(str(name), dict.fromkeys(known))}")
    for name, values in axes.items():
        if name in settings:
            raise ConfigError(f"{name} has one value and several, {settings[name]!r} and {values!r}: leave one out")
        _check_values(name, values)
    for fraction in (*axes.get("fraction", ()), *([settings["fraction"]] if "fraction" in settings else [])):
        share("fraction", fraction, of="the training data", zero=False, one=True)


def _check_values(name: str, values: Any) -> None:
    if not isinstance(values, tuple | list) or not values:
        raise ConfigError(f"{name} needs at least one value, such as {name} = [...]; received {values!r}")
    if len({repr(value) for value in values}) < len(values):
        raise ConfigError(f"{name} has a value twice: {', '.join(map(str, values))}")


def _check_peaks(spec: Spec) -> None:
    if isinstance(spec.lr_max, Mapping):
        for policy in spec.lr_max:
            if policy not in spec.policies:
                raise ConfigError(f"lr_max has a peak for {policy!r}, which is no policy here: "
                                  f"{did_you_mean(str(policy), spec.policies)}")  # fmt: skip
    if spec.tune:
        if spec.lr_max is not None:
            raise ConfigError(
                f"peaks are tuned, or given by lr_max; received {spec.lr_max!r}: leave it out, or turn the tuning off "
                "(--no-tune, tune = false)"
            )
        return
    missing = [policy for policy in spec.policies if spec.peak(policy) is None]
    if missing:
        raise ConfigError(f"without tuning, {', '.join(missing)} has no peak learning rate: give lr_max, a number or "
                          "one for each policy, or leave the tuning on")  # fmt: skip


def _table(name: str, table: Any) -> dict[str, Any]:
    """The mapping from hyper-parameters, its numbers made Python's."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name} has a value for each hyper-parameter, by name; received {table!r}")
    return unwrapped(table)


def _peaks(lr_max: Any) -> float | dict[str, float] | None:
    """One peak, or one by the name of each policy, as numbers."""
    if isinstance(lr_max, Mapping):
        return {policy: peak_number(peak) for policy, peak in lr_max.items()}
    return None if lr_max is None else peak_number(lr_max)


def _is_one_list(name: str, values: list[Any]) -> bool:
    """Whether a list is one value: names of columns."""
    return name == LISTED and not any(isinstance(value, list | tuple) for value in values)


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
