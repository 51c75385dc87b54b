"""The options of the commands, made from the dataclasses that hold them, and what was given of them as settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from cyclopts import Group, Parameter, Token

from ..checks import flag
from ..errors import ConfigError
from ..jobs.job import AUTO_MODEL, Job
from ..schedules.budget import Budget
from ..training.launched import restarts, world_asked
from ..training.options import COMPILE_MODES, TIMEOUT, seconds_of

Made = TypeVar("Made")

GROUPS = {
    name: Group.create_ordered(name)
    for name in (
        "Data",
        "Model",
        "Schedule",
        "Range test",
        "Profile",
        "Optimizer",
        "Run",
        "Comparison",
        "Where",
        "Output",
    )
}


def _whole(_: type, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)  # where cyclopts would round 2.7 to 3
    except ValueError:
        raise ValueError(f"it is a whole number; received {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Json = Annotated[
    bool,
    Parameter(negative="", show_default=False, group=GROUPS["Output"], help="Print one JSON object and nothing else."),
]
NoReport = Annotated[
    bool, Parameter(negative="", show_default=False, group=GROUPS["Output"], help="Write no page and no figure.")
]
Folder = Annotated[Path | None, Parameter(group=GROUPS["Output"])]
# Options whose values are written in the shell in another way than in Python, which `settings` reads.
KINDS = {
    "lr_max": Annotated[str, Parameter(metavar="NUMBER|auto|default")],
    "momentum": Annotated[str, Parameter(metavar="NUMBER|HIGH,LOW")],
    "augment": Annotated[str, Parameter(metavar="NAME,NAME")],
    "leave_out": Annotated[str, Parameter(metavar="NAME,NAME")],
    "track": Annotated[str, Parameter(metavar="NAME,NAME")],
    "policy": Annotated[str, Parameter(metavar="NAME|FILE.json")],
    "optimizer": str,
    "device": str,
    "compile": bool | Literal[COMPILE_MODES],  # type: ignore[valid-type]
    "model_options": dict[str, str],
    "policy_options": dict[str, str],
    "stages": Annotated[str, Parameter(metavar="FILE.json")],
}
Options = TypeVar("Options")


def options_of(source: type, leave: Sequence[str] = (), kind: Any = None) -> Callable[[type[Options]], type[Options]]:
    """Make a class a dataclass of options: its own fields, and those of `source`, each None where it is not given.

    The command has no options for the fields in `leave`; `kind` is the type of all options but switches, in place of
    their own.
    """

    def add(cls: type[Options]) -> type[Options]:
        hints = get_type_hints(source)
        for one in fields(source):
            if one.name not in leave:
                own = _kind(one.name, hints[one.name])
                of_option = own if kind is None or own is bool else kind
                cls.__annotations__[one.name] = Annotated[of_option | None, _parameter(one)]
                setattr(cls, one.name, None)
        return dataclass(frozen=True, kw_only=True)(cls)

    return add


def _kind(name: str, hint: Any) -> Any:
    plain = {int: Whole, float: float, bool: bool, str: str}
    return KINDS.get(name) or next(plain[part] for part in (hint, *get_args(hint)) if part in plain)


def _parameter(one: Field[Any]) -> Parameter:
    default = one.default is not None and one.default is not False and str(one.default)
    switch = one.default is True or (one.default is None and str(one.type).startswith("bool"))
    turned_off = f"--no-{one.name.replace('_', '-')}" if switch else ""
    return Parameter(
        help=one.metadata["help"], group=GROUPS[one.metadata["group"]], show_default=default, negative=turned_off
    )


def source(more: str) -> Parameter:
    """The first argument of a command: what to train on; `more` is what else it may be."""
    about = next(one for one in fields(Job) if one.name == "data")
    return Parameter(help=f"{about.metadata['help']} {more}", group=GROUPS["Data"], show_default=str(about.default))


def given(options: Any) -> dict[str, Any]:
    """The options that were given, by name."""
    return {name: value for name, value in vars(options).items() if value is not None}


def settings(data: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job: the options of a command, and below them the TOML file `data` where it is one."""
    if data is not None and data.lower().endswith(".toml"):
        from ..experiments.spec import read_toml

        file = read_toml(data)
        if {"epochs", "budget"} & set(options):
            file = {name: value for name, value in file.items() if name not in ("epochs", "budget")}
        options = {**file, **options}
    elif data is not None:
        options = {"data": data, **options}
    values = {name: READ[name](value) if name in READ else value for name, value in options.items()}
    if "epochs" in values:
        if "budget" in values:
            raise ConfigError("give --epochs or --budget, one of them")
        values["budget"] = str(Budget(epochs=values.pop("epochs")))
    return values


def destination(values: dict[str, Any], out: Path | None, no_report: bool) -> tuple[Path | None, bool]:
    """The folder and whether it gets no page: as given in the shell, else what a file has as out and no_report.

    Both are taken out of `values`.

    Raises:
        ConfigError: an out that is no path, or a no_report that is not true or false.
    """
    folder, bare = values.pop("out", None), values.pop("no_report", False)
    if folder is not None and not (isinstance(folder, str) and folder):
        raise ConfigError(f'out is the path of a folder, such as "runs/first"; received {folder!r}')
    return (out if out is not None or folder is None else Path(folder)), no_report or flag("no_report", bare)


def job_and_folder(values: Mapping[str, Any], out: Path | None, resume: Path | None) -> tuple[Job, Path]:
    """The job with these fields and the folder of its run: a new one, or the one to `resume`, which has the others.

    In a time budget its model is one that the time affords, unless `values` name another.

    Raises:
        ConfigError: fields that cannot be used, or an `out` beside the folder of the run.
        CheckpointError: no run to resume, or one that was begun in Python.
    """
    from ..jobs.run import free_folder, job_of

    if resume is None:
        timed = Budget.parse(values.get("budget", Job.budget)).seconds is not None
        job = Job.from_dict({**({"model": AUTO_MODEL} if timed else {}), **values})
        if out is None and restarts():
            raise ConfigError("give --out, the folder of the run: ranks that are started anew go on with the run there")
        return job, out or free_folder(job)
    if out is not None and out != resume:
        raise ConfigError(f"--resume {resume} goes on in its own folder; leave out --out {out}")
    return replace(job_of(resume), **values), resume


def of_main_rank(values: Mapping[str, Any], make: Callable[[], Made]) -> Made:
    """What is made from folders that, of several ranks, the main one may see alone."""
    if world_asked() == 1:
        return make()
    from ..training.runtime import Runtime

    ranks = Runtime.choose(values.get("device"), timeout=seconds_of(values.get("timeout", TIMEOUT))).ranks
    return ranks.from_main(make)


def value(text: Any) -> Any:
    """A value of the command line: a number, true, false or none where it is one.

    >>> value("64"), value("1e-3"), value("sgd"), value("none")
    (64, 0.001, 'sgd', None)
    """
    if not isinstance(text, str):
        return text
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def momentum(given: Any) -> Any:
    """Momentum, or the high and the low of its cycle.

    >>> momentum("0.9"), momentum("0.95,0.85")
    (0.9, (0.95, 0.85))
    """
    if not isinstance(given, str):
        return given
    numbers = [value(part) for part in given.split(",")]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _stages(given: Any) -> Any:
    """The stages in a file; those of a TOML file as they are."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the stages in {given}: {error}") from error


def _policy(given: Any) -> Any:
    """A name, or the policy in a file."""
    if not isinstance(given, str) or not given.lower().endswith(".json"):
        return given
    try:
        policy = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the policy in {given}: {error}") from error
    if not isinstance(policy, dict):
        raise ConfigError(f'{given} holds {policy!r}; a policy is an object such as {{"lr": 0.1, "momentum": 0.9}}')
    return policy


def _names(given: Any) -> Any:
    return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else given


def _values(given: Any) -> Any:
    return {name: value(one) for name, one in given.items()} if isinstance(given, Mapping) else given


READ: dict[str, Callable[[Any], Any]] = {
    "lr_max": value,
    "momentum": momentum,
    "augment": _names,
    "leave_out": _names,
    "policy": _policy,
    "stages": _stages,
    "model_options": _values,
    "policy_options": _values,
}
