"""One HTML page about runs, range tests, comparisons and profiles, made from their files alone.

The page works from disk and asks nothing of any network: styles, script and data are inside. plotly.js is inside too,
or, for a page among the records of a run, in one file that all pages of a folder of runs share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError, MissingDependency
from ..records.files import REPRODUCTION, RUN
from ..records.read import KINDS, RecordedComparison, RecordedRun, Records, items, part, read
from ..text import in_markdown
from .content import compared, groups, notices, profile_changes, profile_facts, summary, title, verdict_of
from .draw_comparison import draw_comparison, run_keys
from .draw_forecast import draw_forecasts
from .draw_predictions import looked_into
from .draw_profile import draw_profile
from .draw_range_test import draw_test
from .draw_run import draw_runs
from .ranking import ranking_table, rankings
from .spec import MARKS, Plots
from .summaries import summaries
from .tables import (
    PAGE,
    comparison_table,
    epochs_table,
    forecast_table,
    link,
    origins,
    pilots_table,
    profile_parts_table,
    profile_table,
    runs_table,
    speed_up_table,
    stages_table,
    tuning_table,
)

TEMPLATES = Path(__file__).parent / "templates"
# The epochs of several runs are on the page where they are no more rows than this; else each is on its run's own page.
EPOCHS = 500
# How many folders above a page its plotly.js is looked for.
ABOVE = 3


def page(folders: Sequence[str | Path], out: str | Path, inline: bool | None = None) -> Path:
    """Write an HTML page about what `folders` hold, and return its path.

    A page in the folder of a comparison leads to those of its runs, which are written where they are not there yet.

    Args:
        folders: of runs, range tests, comparisons and profiles, mixed as you like. Runs that differ in their seed alone
            are drawn as one line with a band.
        out: the file to write.
        inline: with plotly.js (4.8 MB) in the page itself, so that the file can be sent to others by itself; or in
            ``plotly-VERSION.min.js``, written once for all pages: into the folder above, if that is a folder of runs
            (the current one is not), else beside the page. Default: in a file for a page among the records of a run,
            range test or comparison, inside of any other.

    Raises:
        ConfigError: no folders, or a path that cannot be written.
        CheckpointError: a folder that holds nothing to report, or that another version of onecycle has written.
        MissingDependency: jinja2 or plotly is not installed.

    >>> page([], "page.html")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: a page needs a list of at least one folder of a run; received []
    """
    out, records = Path(out), read(folders)
    _libraries()  # what is missing is said before anything is written
    try:
        script = None if inline else _shared_script(out.parent, inline is None)
        for run in _runs_below(records.comparisons, out.parent):
            _write(Records(runs=[run]), run.folder / PAGE, _shared_script(run.folder, True))
        _write(records, out, script)
    except OSError as error:
        raise ConfigError(
            f"cannot write the page {str(out)!r}: {error.strerror}. Name one in a folder that exists and is writable"
        ) from error
    return out


def markdown(folders: Sequence[str | Path]) -> str:
    """The summary in Markdown: sentences, a table of the runs, the commands.

    Raises:
        ConfigError: no folders.
        CheckpointError: as for `page`.

    >>> markdown([])
    Traceback (most recent call last):
    onecycle.errors.ConfigError: a page needs a list of at least one folder of a run; received []
    """
    records = read(folders)
    lines = [f"# {in_markdown(title(records))}", ""]
    lines += [f"- {in_markdown(sentence)}" for sentence in summary(records, groups(records.runs))]
    lines += [f"- **Note:** {in_markdown(notice)}" for notice in notices(records)]
    ranked, left = rankings(records.runs)
    lines += [f"- {in_markdown(sentence)}" for sentence in (*(one.sentence for one in ranked), *left)]
    tables = [ranking_table(one) for one in ranked] or ([runs_table(records.runs)] if len(records.runs) > 1 else [])
    for comparison in records.comparisons:
        tables += [speed_up_table(comparison), comparison_table(comparison)]
    for table in tables:
        if table.rows:
            rows = [table.columns, ["---"] * len(table.columns), *([cell.text for cell in row] for row in table.rows)]
            lines += ["", f"**{in_markdown(table.caption)}**", ""]
            lines += [f"| {' | '.join(map(in_markdown, row))} |" for row in rows]
    commands = [origin.command for origin in origins(records)[1] if origin.command]
    if commands:
        lines += ["", "Made by:", "", *(f"    {' '.join(command.splitlines())}" for command in commands)]
    return "\n".join(lines) + "\n"


def html(records: Records, plotly: str | None = None, at: Path | None = None, script: str | None = None) -> str:
    """The page about `records` as text, for a file in the folder `at`.

    `script` is the address of plotly.js as seen from there; without one it is in the page: the installed one, or the
    text `plotly`.
    """
    template, plotly_py = _libraries()
    from markupsafe import Markup

    inlined = {name: Markup((TEMPLATES / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    contents = _contents(records, at)
    data = Markup(embedded(contents["plots"].plain()))
    library = Markup(plotly_py.get_plotlyjs() if plotly is None and script is None else plotly)
    return template.render(**contents, **inlined, plotly=library, script=script, data=data)


def embedded(data: Any) -> str:
    """Plain data as JSON that nothing in it can end early, whatever the strings say.

    >>> print(embedded("</script><!--"))
    "\\u003c/script>\\u003c!--"
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _write(records: Records, out: Path, script: str | None) -> None:
    content = html(records, at=out.parent, script=script)
    out.write_bytes(content.encode("utf-8", "replace"))  # a path can hold what is no text


def _runs_below(comparisons: Sequence[RecordedComparison], at: Path) -> list[RecordedRun]:
    """The runs to which a page in the folder `at` leads, and whose own page is missing or older than they are."""

    def is_due(run: RecordedRun) -> bool:
        page, record = run.folder / PAGE, RUN.path(run.folder)
        return not page.exists() or page.stat().st_mtime < record.stat().st_mtime

    inside = [one for one in comparisons if at.resolve().is_relative_to(one.folder.resolve())]
    return [run for one in inside for _, run in one.runs if link(run.folder, at, within=one.folder) and is_due(run)]


def _shared_script(folder: Path, among_records: bool) -> str | None:
    """The address of plotly.js as seen from a page in `folder`, written if need be.

    None where the page is to be `among_records` and is not.
    """
    home = folder.resolve()
    if among_records and not _is_record(home):
        return None
    plotly_py = _libraries()[1]
    name = f"plotly-{plotly_py.get_plotlyjs_version()}.min.js"
    near = next((above for above in (home, *home.parents[:ABOVE]) if (above / name).is_file()), None)
    if near is None:
        near = home.parent if _is_record(home) and _is_folder_of_records(home.parent) else home
        beside = near / f".{os.getpid()}-{name}"
        beside.write_text(plotly_py.get_plotlyjs(), encoding="utf-8")
        beside.replace(near / name)
    return quote(os.path.relpath(near / name, home))


def _is_record(folder: Path) -> bool:
    return any(kind.exists(folder) for kind in (*KINDS, REPRODUCTION))


def _is_folder_of_records(folder: Path) -> bool:
    """Whether all in it are records, and it is not the one that is worked in."""
    return (
        folder != Path.cwd()
        and os.access(folder, os.W_OK)
        and all(_is_record(path) for path in folder.iterdir() if not path.name.startswith((".", "plotly-")))
    )


def _contents(records: Records, at: Path | None) -> dict[str, Any]:
    plots, mates = Plots(), groups(records.runs)
    comparisons = [
        {
            "name": comparison.name,
            "plots": draw_comparison(plots, comparison),
            "speed_up": speed_up_table(comparison),
            "table": comparison_table(comparison, at),
            "tuning": tuning_table(comparison),
            "runs": draw_runs(plots, compared(comparison), run_keys(comparison)),
        }
        for comparison in records.comparisons
    ]
    tests = [
        {
            "name": test.name,
            "verdict": verdict_of(test.result),
            "reasons": items(part(test.result, "verdict"), "reasons"),
            "advice": items(part(test.result, "verdict"), "advice"),
            "plots": draw_test(plots, test),
        }
        for test in records.tests
    ]
    profiles = [
        {
            "name": profile.name,
            "changes": profile_changes(profile.result),
            "parts": profile_parts_table(profile.result),
            "table": profile_table(profile.result),
            "facts": profile_facts(profile.result),
            "left_out": items(profile.result, "left_out"),
            "plots": draw_profile(plots, profile.result),
        }
        for profile in records.profiles
    ]
    common, each = origins(records)
    runs, foreseen = draw_runs(plots, mates), draw_forecasts(plots, records.runs)
    predictions, damage = looked_into(plots, records.runs)
    summed, unread = summaries(records.runs)
    ranked, unranked = rankings(records.runs)
    parts = [part for run in records.runs for part in (*run.stages, run)]
    few = len(records.runs) == 1 or sum(len(run.epochs) for run in records.runs) <= EPOCHS
    return {
        "title": title(records),
        "summary": summary(records, mates),
        "notices": [*notices(records), *damage, *unread],
        "predictions": predictions,
        "comparisons": comparisons,
        "tests": tests,
        "profiles": profiles,
        "summed": summed,
        "ranked": [(one.sentence, ranking_table(one)) for one in ranked],
        "unranked": unranked,
        "recorded": bool(records.runs),
        "runs": runs,
        "table": runs_table(records.runs, at) if len(records.runs) > 1 else None,
        "stages": {run.name: stages_table(run) for run in records.runs if run.stages and few},
        "epochs": [epochs_table(run) for run in parts if run.epochs and few],
        "pilots": [pilots_table(run) for run in parts if run.pilots and few],
        "foreseen": foreseen,
        "forecasts": {run.name: forecast_table(run) for run in records.runs if run.name in foreseen.get("figures", ())},
        "common": common,
        "origins": each,
        "plots": plots,
        "marks": MARKS,
    }


@cache
def _libraries() -> tuple[Any, Any]:
    """The template of the page, and the module that has plotly.js."""
    try:
        import plotly.offline as plotly_py
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependency("the page is made by jinja2 and plotly: pip install onecycle[report]") from error
    how: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader(TEMPLATES), **how).get_template("page.html"), plotly_py
