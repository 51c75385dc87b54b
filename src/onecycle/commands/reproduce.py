"""The command that reproduces the figures of the papers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ..errors import MissingDependency
from .options import Flag, Json, Whole
from .printing import print_json


def reproduce(
    name: str,
    /,
    *,
    size: str = "small",
    seeds: Whole | None = None,
    jobs: Whole = 1,
    on: str | None = None,
    cpus: Whole | None = None,
    gpus: float | None = None,
    storage: str | None = None,
    plan: Flag = False,
    out: Path | None = None,
    format: Literal["png", "svg", "pdf"] = "png",
    json: Json = False,
) -> None:
    """Put a published claim to the test: run it, draw it beside the published figure, say whether it held.

    Called again it goes on with what is missing.

    Parameters
    ----------
    name
        schedule, range-test, accuracy, limited-data, batch-size, weight-decay, dropout or momentum.
    size
        small, for two CPU cores and about ten minutes; paper, the paper's own protocol, for a GPU.
    seeds
        Repeats of everything; default 3 to 8.
    jobs
        Processes that make runs side by side; default 1.
    on
        As for "onecycle compare".
    cpus
        On Ray, CPUs of a run, and its threads; default 1.
    gpus
        On Ray, share of a GPU of a run; default a whole one, where there are any.
    storage
        On Ray, where runs keep checkpoints, as for "onecycle compare".
    plan
        Only print what would be run, and how long it takes.
    out
        Its folder. Default: reproductions/NAME-SIZE.
    format
        Of the figure: png, svg or pdf.
    """
    from ..experiments.options import Placement
    from ..reproduction.protocol import read
    from ..reproduction.reproduce import reproduce as run
    from ..reproduction.reproduce import with_seeds

    if plan:
        protocol = with_seeds(read(name, size), seeds)
        said = _plan(protocol, Placement(jobs=jobs, on=on, cpus=cpus, gpus=gpus, storage=storage))
        print_json({"name": name, "size": size, "plan": said}) if json else print(*said, sep="\n")
        return
    found = run(name, size, out, seeds=seeds, jobs=jobs, on=on, cpus=cpus, gpus=gpus, storage=storage, verbose=not json)
    drawn = None
    with suppress(MissingDependency):
        drawn = found.draw(format)
    if json:
        print_json({"out": str(found.folder), "figure": drawn and str(drawn), "answer": found.findings[0].answer,
                    "summary": found.summary})  # fmt: skip
        return
    print(*found.summary, *([f"drawn in {drawn}"] if drawn else []), sep="\n")


def _plan(protocol: Any, placement: Any) -> list[str]:
    from ..experiments.comparison import lines, measured
    from ..reproduction.evidence import specs

    said = [f"{protocol.title} ({protocol.source})"]
    for name, spec in specs(protocol).items():
        said += [f"{name}:", *[f"  {line}" for line in lines(spec, measured(spec), placement)]]
    if protocol.kind != "comparisons":
        what = protocol.kind.removesuffix("s").replace("-", " ")
        said.append(f"{protocol.seeds} of each {what}: {', '.join(protocol.parts)}")
    return said
