"""One self-contained HTML page about runs, range tests and comparisons, made from their files alone.

The page works from disk and asks nothing of any network: plotly.js, styles, script and data are all inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingDependency
from ..records.read import Records, items, part, read
from .content import compared, groups, notices, of_test, summary
from .page_compare import draw_comparison, run_keys
from .page_figures import draw_runs, draw_test
from .page_series import MARKS, Plots
from .tables import Table, comparison_table, origins, runs_table, speed_up_table, tuning_table

TEMPLATES = Path(__file__).parent / "templates"


def page(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write an HTML page about what `folders` hold, and return its path.

    Args:
        folders: of runs, range tests and comparisons, mixed as you like. Runs that differ in their seed alone are
            drawn as one line with a band.
        out: the file to write.

    Raises:
        ConfigError: no folders, or a path that cannot be written.
        CheckpointError: a folder that holds nothing to report, or that another version of onecycle has written.
        MissingDependency: jinja2 or plotly is not installed.

    >>> page([], "page.html")
    Traceback (most recent call last):
    onecycle.errors.ConfigError: a page needs a list of at least one folder of a run; received []
    """
    out = Path(out)
    content = html(read(folders), at=out.parent).encode("utf-8", "replace")  # a path can hold what is no text
    try:
        out.write_bytes(content)
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
    lines = [f"# {_escaped(title(records))}", ""]
    lines += [f"- {_escaped(sentence)}" for sentence in summary(records, groups(records.runs))]
    lines += [f"- **Note:** {_escaped(notice)}" for notice in notices(records)]
    for found in _tables(records):
        lines += ["", f"**{_escaped(found.caption)}**", "", *_markdown_table(found)]
    commands = [origin.command for origin in origins(records)[1] if origin.command]
    if commands:
        lines += ["", "Made by:", "", *(f"    {' '.join(command.splitlines())}" for command in commands)]
    return "\n".join(lines) + "\n"


def html(records: Records, plotly: str | None = None, at: Path | None = None) -> str:
    """The page about `records` as text, for a file in the folder `at`; `plotly` in place of the installed plotly.js."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingDependency("the page is made by jinja2 and plotly: pip install onecycle[report]") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    inlined = {name: Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    contents = _contents(records, at)
    data = Markup(embedded(contents["plots"].plain()))
    script = Markup(_plotly() if plotly is None else plotly)
    return environment.get_template("page.html").render(
        **contents, css=inlined["page.css"], js=inlined["page.js"], plotly=script, data=data
    )


def embedded(data: Any) -> str:
    """Plain data as JSON that nothing in it can end early, whatever the strings say.

    >>> print(embedded("</script><!--"))
    "\\u003c/script>\\u003c!--"
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def title(records: Records) -> str:
    """The name of what there is one of, or how many there are."""
    found = [*records.comparisons, *records.tests, *records.runs]
    if len(found) == 1:
        return found[0].name
    counts = ((records.comparisons, "comparison"), (records.tests, "range test"), (records.runs, "run"))
    return ", ".join(f"{len(of)} {name}{'s' if len(of) > 1 else ''}" for of, name in counts if of)


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
            "words": of_test(test),
            "verdict": str(part(test.result, "verdict").get("answer") or ""),
            "reasons": [str(r) for r in items(part(test.result, "verdict"), "reasons")],
            "advice": [str(a) for a in items(part(test.result, "verdict"), "advice")],
            "plots": draw_test(plots, test),
        }
        for test in records.tests
    ]
    common, own = origins(records)
    return {
        "title": title(records),
        "summary": summary(records, mates),
        "notices": notices(records),
        "comparisons": comparisons,
        "tests": tests,
        "recorded": bool(records.runs),
        "runs": draw_runs(plots, mates),
        "table": runs_table(records.runs) if len(records.runs) > 1 else None,
        "common": common,
        "origins": own,
        "plots": plots,
        "marks": MARKS,
    }


def _tables(records: Records) -> list[Table]:
    found = [runs_table(records.runs)] if len(records.runs) > 1 else []
    for comparison in records.comparisons:
        found += [speed_up_table(comparison), comparison_table(comparison)]
    return [table for table in found if table.rows]


def _markdown_table(table: Table) -> list[str]:
    rows = [[_escaped(cell.text) for cell in row] for row in table.rows]
    ruler = ["---"] * len(table.columns)
    return ["| " + " | ".join(row) + " |" for row in ([_escaped(name) for name in table.columns], ruler, *rows)]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependency("the page is made by jinja2 and plotly: pip install onecycle[report]") from error
    return get_plotlyjs()
