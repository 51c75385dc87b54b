"""The command that writes a page."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError, did_you_mean
from ..text import fitted, listed
from .options import Flag
from .printing import print_table, terminal_width, wrapped

if TYPE_CHECKING:
    from ..records.read import RecordedRun

FIGURES = ("png", "svg", "pdf")
# Columns of a ranking that no terminal is too narrow for.
NEEDED = ("run", "95 % interval")


def report(
    *folders: Path,
    out: Path | None = None,
    format: str | None = None,
    markdown: Flag = False,
    open: Flag = False,
    self_contained: Flag = False,
) -> None:
    """Write one page about runs, range tests, comparisons and profiles, which works offline; rank several runs.

    Several runs are ranked by their validation metric, with the settings in which they differ; the page that has that
    too is written where --out names it.

    Parameters
    ----------
    folders
        Of runs, range tests, comparisons, profiles and reproductions.
    out
        The page. Default: report.html in the first folder; of several runs none.
    format
        Draw the figures of each run, range test, comparison or profile beside its records instead, for print: png,
        svg or pdf.
    markdown
        Print the summary as Markdown instead.
    open
        Show the page in the browser.
    self_contained
        Put plotly.js (4.8 MB) into the page, so that it can be sent by itself. A page outside of the folders of runs
        always holds it; the others share one file.
    """
    if not folders:
        raise ConfigError("name at least one folder of a run, a range test or a comparison: onecycle report RUN...")
    _refuse_ignored(format, markdown, out, open, self_contained)
    folders = tuple(folder for folder in folders if not _is_script(folder)) or folders
    first, folders = folders[0], tuple(part for folder in folders for part in _parts(folder))
    if format is not None:
        print(*(f"drawn in {path}" for folder in folders for path in draw(folder, format)), sep="\n")
        return
    from ..records.read import read
    from ..report.page import markdown as words
    from ..report.page import page

    if markdown:
        print(words(folders))
        return
    if len(runs := read(folders).runs) > 1:
        print_rankings(runs)
        if out is None:
            if open or self_contained:
                raise ConfigError("a page about several runs goes where --out says: add --out FILE.html")
            print("For a page with their curves: add --out FILE.html")
            return
    written = page(folders, out or first / "report.html", inline=self_contained or None)
    print(f"written: {written}")
    if open:
        webbrowser.open(written.resolve().as_uri())


def _refuse_ignored(format: str | None, markdown: bool, out: Path | None, open: bool, self_contained: bool) -> None:
    """Refuse what is about the page where none is written."""
    instead = "--format" if format is not None else "--markdown"
    others = {
        "--markdown": markdown and format is not None,
        "--out": out is not None,
        "--open": open,
        "--self-contained": self_contained,
    }
    ignored = [name for name, given in others.items() if given]
    if ignored and (markdown or format is not None):
        raise ConfigError(
            f"with {instead} no page is written, and {' and '.join(ignored)} would be ignored: give {instead} alone, "
            "or leave it out"
        )


def print_rankings(runs: Sequence[RecordedRun]) -> None:
    """Several runs on the terminal: ranked, with the settings in which they differ, and what is to be known of them."""
    from ..records.read import Records
    from ..report.content import notices
    from ..report.ranking import ranking_table, rankings

    (ranked, left), width = rankings(runs), terminal_width()
    for ranking in ranked:
        table = ranking_table(ranking)
        print(*wrapped([ranking.sentence], width), sep="\n")
        settings = [name.replace("_", " ") for name in ranking.names]
        others = [name for name in table.columns if name not in (*settings, *NEEDED) and not name.startswith("valid ")]
        cells = [table.columns, *([cell.text for cell in row] for row in table.rows)]
        shown = cells if width is None else fitted(cells, width, [*others, *reversed(settings)])
        print_table(shown[0], shown[1:])
        dropped = [name for name in table.columns if name not in shown[0]]
        notes = [f"Left out, as the terminal is narrow: {listed(dropped)}. A page has all of it."] if dropped else []
        print(*wrapped([*notes, table.note], width), "", sep="\n")
    if more := wrapped([*left, *notices(Records(runs=list(runs)))], width):
        print(*more, "", sep="\n")


def _is_script(path: Path) -> bool:
    """Whether it is the script that the pages in a folder share, which ``runs/*`` names too."""
    return path.name.startswith("plotly-") and path.suffix == ".js" and path.is_file()


def _parts(folder: Path) -> list[Path]:
    """The folders with records of a reproduction; of anything else the folder itself."""
    if not (folder / "reproduction.json").exists():
        return [folder]
    return sorted({path.parent for name in ("run", "check", "compare") for path in folder.glob(f"*/{name}.json")})


def draw(folder: Path, format: str) -> list[Path]:
    """The figures of the run, the range test or the comparison in `folder`, drawn anew from their records.

    Raises:
        ConfigError: an unknown format.
        CheckpointError: nothing there to draw.
    """
    from ..records.read import read
    from ..report.draw_forecast import forecast_drawing
    from ..report.draw_profile import profile_figure
    from ..report.draw_range_test import range_figure
    from ..report.draw_run import history_figure
    from ..report.matplotlib import save

    if format not in FIGURES:
        raise ConfigError(f"unknown format {format!r}: {did_you_mean(format, FIGURES)}")
    records = read([folder])
    if records.comparisons:
        from ..experiments.comparison import Comparison
        from ..report.draw_comparison import comparison_drawings

        drawings = {"compare": Comparison.read(folder).plot()}
        for comparison in records.comparisons:
            drawings |= {f"compare-{name}": drawing for name, drawing in comparison_drawings(comparison).items()}
        return [save(drawing, folder / f"{name}.{format}") for name, drawing in drawings.items()]
    drawn = []
    for run in records.runs:
        whole = run.whole
        drawn.append(save(history_figure(whole.steps, whole.epochs, title=run.name), folder / f"curves.{format}"))
        if (forecast := forecast_drawing(run)) is not None:
            drawn.append(save(forecast, folder / f"forecast.{format}"))
    drawn += [save(range_figure(test.record["result"]), folder / f"check.{format}") for test in records.tests]
    drawn += [save(profile_figure(one.result), folder / f"profile.{format}") for one in records.profiles]
    if not drawn:
        raise CheckpointError(f"{folder} holds no run, no range test and no profile whose figure could be drawn")
    return drawn
