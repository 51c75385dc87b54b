"""The command that lists what has been run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import one_of
from ..errors import CheckpointError
from ..text import duration, measure, number
from .options import Json
from .printing import print_json, print_table

if TYPE_CHECKING:
    from ..records.files import Kind

FOLDERS = ("runs", "comparisons", "reproductions")
# The columns, and in which order they are left out where the terminal is too narrow.
RUN = ("run", "data", "model", "optimizer", "budget", "lr_max", "valid", "test", "seconds", "status", "created")
LEAST = ("created", "seconds", "optimizer", "budget", "lr_max", "model", "data", "epochs", "policies", "test")


def runs(folder: Path | None = None, *, sort: str = "valid", json: Json = False) -> None:
    """List what has been run in a folder, and in the folders inside it: runs, comparisons and checks.

    Parameters
    ----------
    folder
        Where to look. Default: runs, comparisons and reproductions.
    sort
        Column to sort the runs by: valid (the best first), run, data, model, optimizer, budget, lr_max, test, seconds,
        status or created.
    """
    one_of("column", sort, RUN)
    folders = [folder] if folder else [Path(name) for name in FOLDERS if Path(name).is_dir()]
    listed = listing(folders)
    if not any(listed.values()):
        raise CheckpointError(f"there is no run in {folder or 'runs'}: onecycle train makes one")
    listed["runs"].sort(key=lambda run: _order(run, sort))
    if json:
        print_json(listed)
        return
    tables = [table for table in (_runs(listed["runs"], sort), _comparisons(listed), _checks(listed)) if table]
    for i, (title, heads, rows) in enumerate(tables):
        print(*[""] * bool(i), title, sep="\n" if i else "")
        print_table(list(heads.values()), rows, least=[heads[name] for name in LEAST if name in heads])
    from ..records.progress import notes

    notes(one["error"] for kind in listed.values() for one in kind if one["status"] == "unreadable")


def listing(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The runs, comparisons and checks in `folders` and below, each a flat dictionary.

    The runs of a comparison are its own: they are listed where its folder is named. What cannot be read has its error.

    Raises:
        CheckpointError: no such folder.
    """
    from ..records.files import CHECK, COMPARISON, records_below
    from ..records.files import RUN as OF_RUN

    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}: name one that holds runs")
    kinds = {"runs": (OF_RUN, _run), "comparisons": (COMPARISON, _comparison), "checks": (CHECK, _check)}
    asked = [kind for kind, _ in kinds.values()]
    holding = sorted({path for folder in folders for path, _ in records_below(folder, *asked, within=False)})
    return {
        name: [_read(kind, path, describe) for path in holding if kind.exists(path)]
        for name, (kind, describe) in kinds.items()
    }


def _read(kind: Kind, folder: Path, describe: Any) -> dict[str, Any]:
    record: dict[str, Any]
    try:
        record, error = kind.read(folder), None
    except CheckpointError as unreadable:
        record, error = {"status": "unreadable"}, str(unreadable)
    config, resolved = (record.get(part) or {} for part in ("config", "resolved"))
    about = {key: config.get(key) or resolved.get(key) for key in ("data", "model", "optimizer", "budget")}
    if about["optimizer"] == "auto":
        about["optimizer"] = resolved.get("optimizer", "auto")  # what it came to
    common = {"created": record.get("created"), "status": record.get("status", "finished")}
    return {
        kind.what: str(folder),
        **common,
        **about,
        **describe(record, config, resolved),
        "error": error or record.get("error"),
    }


def _run(record: Mapping[str, Any], config: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    result = record.get("result") or {}
    splits = {split: result.get(split) or {} for split in ("valid", "test")}
    names = [name for means in splits.values() for name in ("accuracy", "loss") if name in means]
    metric = names[0] if names else None
    return {
        "lr_max": result.get("lr_max") or resolved.get("lr_max"),
        "metric": metric,
        **{split: means.get(metric) for split, means in splits.items()},
        "seconds": result.get("seconds"),
    }


def _comparison(record: Mapping[str, Any], config: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    table = record.get("table") or []
    ended = sum(row["status"] != "waiting" for row in table)
    return {
        "policies": config.get("policies"), "epochs": config.get("epochs"), "ended": ended, "runs": len(table),
        "summary": record.get("summary") or [],
    }  # fmt: skip


def _check(record: Mapping[str, Any], *_: Mapping[str, Any]) -> dict[str, Any]:
    result = record.get("result") or {}
    return {"lr_max": result.get("lr_max"), "verdict": (result.get("verdict") or {}).get("answer")}


def _order(run: Mapping[str, Any], column: str) -> tuple[int, float, str]:
    """Numbers, then words, then what is missing; of a metric the best first."""
    value = run[column]
    if value is None:
        return (2, 0.0, "")
    if not isinstance(value, int | float):
        return (1, 0.0, str(value))
    best_is_high = column in ("valid", "test") and run["metric"] == "accuracy"
    return (0, -value if best_is_high else value, "")


# A title, the headings of columns by their names, and rows.
Table = tuple[str, dict[str, str], list[list[Any]]]


def _runs(runs: Sequence[Mapping[str, Any]], sort: str) -> Table | None:
    if not runs:
        return None
    metrics = {run["metric"] for run in runs} - {None}
    measured = ("valid", "test") if metrics else ()
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    words = {"valid": f"valid {metric}", "test": f"test {metric}", "lr_max": "peak", "seconds": "time"}
    heads = {name: words.get(name, name) for name in RUN if name in measured or name not in ("valid", "test")}
    by = f", by {heads[sort]}{', the best first' if sort in measured else ''}" if sort in heads else ""
    if all(run["status"] == "finished" for run in runs):
        del heads["status"]
    return f"Runs{by}:", heads, [[_shown(run, name) for name in heads] for run in runs]


def _comparisons(listed: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    names = ("comparison", "data", "model", "policies", "epochs", "runs", "status", "created")
    rows = [
        [f"{one['ended']} of {one['runs']}" if name == "runs" else _shown(one, name) for name in names]
        for one in listed["comparisons"]
    ]
    return ("Comparisons:", {name: name for name in names}, rows) if rows else None


def _checks(listed: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    names = ("check", "data", "model", "optimizer", "lr_max", "verdict", "created")
    rows = [[_shown(one, name) for name in names] for one in listed["checks"]]
    return ("Checks:", {name: "peak" if name == "lr_max" else name for name in names}, rows) if rows else None


def _shown(one: Mapping[str, Any], name: str) -> Any:
    value = one[name]
    if value is None:
        return ""
    if name in ("valid", "test"):
        return measure(one["metric"], value)
    if name == "created":
        return value[:16].replace("T", " ")
    if name in ("policies", "epochs"):
        return ", ".join(f"{part:g}" if isinstance(part, int | float) else str(part) for part in value)
    return {"seconds": duration, "lr_max": lambda peak: number(peak, 2)}.get(name, str)(value)
