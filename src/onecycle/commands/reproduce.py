"""The command that reproduces the figures of the papers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import MissingDependency
from ..experiments.options import Placement
from .compare import PlacementOptions
from .options import GROUPS, Flag, Folder, Json, Whole, given
from .printing import print_json

OUTPUT = GROUPS["Output"]


def reproduce(
    name: Annotated[str, Parameter(group=GROUPS["Comparison"])],
    /,
    *,
    size: Annotated[str, Parameter(group=GROUPS["Comparison"])] = "small",
    seeds: Annotated[Whole | None, Parameter(group=GROUPS["Comparison"])] = None,
    place: Annotated[PlacementOptions, Parameter(name="*")] = PlacementOptions(),
    plan: Annotated[Flag, Parameter(group=OUTPUT)] = False,
    out: Folder = None,
    format: Annotated[Literal["png", "svg", "pdf"], Parameter(group=OUTPUT)] = "png",
    json: Json = False,
) -> None:
    """Put a published claim to the test: run it, draw it beside the published figure, say whether it held.

    Called again it goes on with what is missing.

    Parameters
    ----------
    name
        schedule, range-test, accuracy, limited-data, batch-size, weight-decay, dropout or momentum.
    size
        small, for two CPU cores and about ten minutes; cpu, of accuracy and limited-data, for two cores and about an
        hour; paper, the paper's own protocol, for a GPU.
    seeds
        Repeats of everything; default 3 to 8.
    plan
        Only print what would be run, and how long it takes.
    out
        Its folder. Default: reproductions/NAME-SIZE.
    format
        Of the figure.
    """
    from ..reproduction.evidence import plan_lines
    from ..reproduction.protocol import read
    from ..reproduction.reproduce import reproduce as run
    from ..reproduction.reproduce import with_seeds

    placement = given(place)
    if plan:
        said = plan_lines(with_seeds(read(name, size), seeds), Placement(**placement))
        print_json({"name": name, "size": size, "plan": said}) if json else print(*said, sep="\n")
        return
    folder = out or Path("reproductions") / f"{name}-{size}"
    reproduction = run(name, size, folder, seeds=seeds, verbose=not json, **placement)
    figure = None
    with suppress(MissingDependency):
        figure = str(reproduction.draw(format))
    if json:
        answer = reproduction.findings[0].answer
        print_json({"folder": str(folder), "figure": figure, "answer": answer, "summary": reproduction.summary})
        return
    print(*reproduction.summary, *([f"drawn in {figure}"] if figure else []), sep="\n")
