"""Reproduce a figure of the papers: make its runs, draw them beside what was published, say whether the claim held."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import whole
from ..errors import CheckpointError
from ..experiments.options import Placement
from ..records.files import REPRODUCTION, differing, plain
from ..records.origin import origin
from ..text import count
from .claims import Finding, is_in, settle, words
from .evidence import gather
from .protocol import Protocol, published, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a protocol, what its runs follow from.
RUNS = ("name", "size", "kind", "common", "parts", "options")
SAID = {
    "held": "The claim held here.",
    "refuted": "The claim did not hold here: the opposite did.",
    "undecided": "Undecided here: the interval reaches to both sides.",
}


@dataclass(frozen=True, repr=False)
class Reproduction:
    """What came out: the findings, the published claim's first, the runs as records, and the folder they are in."""

    protocol: Protocol
    folder: Path
    findings: tuple[Finding, ...]
    rows: list[dict[str, Any]]

    @property
    def summary(self) -> list[str]:
        """What was claimed, what came out, and whether the one holds by the other."""
        protocol = self.protocol
        scale, unit = (1.0, "") if protocol.kind == "schedules" else (100.0, " points")
        failed = [row["value"] is None for row in self.rows if row["status"] == "failed"]
        endings = (
            ("diverged, and count as chance", len(failed) - sum(failed)),
            ("failed, and are left out", sum(failed)),
        )
        return [
            f"{protocol.title} ({protocol.source})",
            f"Claimed: {protocol.claim}",
            SAID[self.findings[0].answer],
            *[f"- {words(finding, scale, unit)}" for finding in self.findings],
            *[f"{n} of {count(len(self.rows), 'runs')} {ending}." for ending, n in endings if n],
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the summary, the findings and the runs, without their curves."""
        return {
            "folder": str(self.folder),
            "summary": self.summary,
            "findings": [{"text": f.claim.text, "answer": f.answer, **asdict(f.contrast)} for f in self.findings],
            "table": [{key: value for key, value in row.items() if key != "curve"} for row in self.rows],
        }

    def __repr__(self) -> str:
        answer, runs = self.findings[0].answer, count(len(self.rows), "runs")
        return f"Reproduction({self.protocol.name}, {self.protocol.size}: {answer}, {runs}, in {self.folder})"

    def draw(self, format: str = "png") -> Path:
        """Write its figure: ``figure.png`` in its folder, or another format.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        from ..report.matplotlib import save

        return save(self.figure(), self.folder / f"figure.{format}")

    def figure(self) -> Figure:
        """What was published beside the means over the seeds with 95 % intervals.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        from ..report.draw_reproduction import reproduction_figure

        protocol = self.protocol
        ours = {line.label: [row for row in self.rows if is_in(row, line.where)] for line in protocol.lines}
        panels = asdict(protocol.published), published(protocol.name), asdict(protocol.panel), ours
        return reproduction_figure(protocol.title, *panels, protocol.by)


def reproduce(
    name: str,
    size: str = "small",
    out: str | Path | None = None,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    on: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    storage: str | None = None,
    verbose: bool = False,
) -> Reproduction:
    """Put a published claim to the test.

    Args:
        name: schedule, range-test, accuracy, limited-data, batch-size, weight-decay, dropout or momentum.
        size: "small" for two CPU cores and about ten minutes; "cpu", of accuracy and limited-data, for two cores and
            about an hour; "paper", the paper's own protocol, for a GPU.
        out: folder of the runs, ``reproduction.json`` and what `Reproduction.draw` writes; default
            ``reproductions/NAME-SIZE``. Called again with the same one, only what is missing is run.
        seeds: repeats of everything, at least 2; default: the protocol's, 3 to 8.
        jobs, on, cpus, gpus, storage: where the runs are made, as in `compare`.
        verbose: say the plan and the progress.

    Raises:
        OneCycleError: anything that cannot be used, see `onecycle.errors`.
        Interrupted: stopped by a signal; called again it goes on.
    """
    placement = Placement(jobs=jobs, on=on, cpus=cpus, gpus=gpus, storage=storage)
    protocol = with_seeds(read(name, size), seeds)
    folder = home(protocol, out)
    if verbose:
        print(f"{protocol.title} ({protocol.source})", "measuring the speed of this machine", sep="\n", file=sys.stderr)
    try:
        rows = gather(protocol, folder, placement=placement, verbose=verbose)
    except KeyboardInterrupt as stop:
        words = ["onecycle", "reproduce", name, *(["--size", size] if size != "small" else [])]
        words += [] if seeds is None else ["--seeds", str(seeds)]
        command = shlex.join([*words, *placement.in_shell(), "--out", str(folder)])
        stop.args = (f"stopped; what is done is kept in {folder}. To go on: {command}",)
        raise
    shares = protocol.kind != "schedules"
    findings = tuple(settle(claim, rows, shares=shares) for claim in protocol.claims)
    reproduction = Reproduction(protocol, folder, findings, rows)
    plain_data = {key: value for key, value in reproduction.to_dict().items() if key != "folder"}
    REPRODUCTION.write(folder, {**_identity(protocol), **origin(), **plain_data})
    return reproduction


def with_seeds(protocol: Protocol, seeds: int | None) -> Protocol:
    """The same with another number of repeats.

    Raises:
        ConfigError: fewer than two, of which no interval can be made.
    """
    if seeds is None:
        return protocol
    whole("seeds", seeds, least=2, what="the number of repeats")
    if protocol.kind == "range-tests":
        total = protocol.options["updates"] // protocol.options["repeats"] * seeds
        return replace(protocol, options={**protocol.options, "repeats": seeds, "updates": total})
    return replace(protocol, common={**protocol.common, "seeds": seeds})


def home(protocol: Protocol, out: str | Path | None) -> Path:
    """The folder of a reproduction.

    Raises:
        CheckpointError: it holds something else.
    """
    folder = Path("reproductions") / f"{protocol.name}-{protocol.size}" if out is None else Path(out)
    if not REPRODUCTION.exists(folder):
        REPRODUCTION.write(REPRODUCTION.claim(folder), _identity(protocol))
    elif different := differing(_kept(folder, protocol.common.get("seeds")), _identity(protocol)):
        raise CheckpointError(f"{folder} holds another reproduction: {'; '.join(different)}. Give another --out")
    return folder


def _identity(protocol: Protocol) -> dict[str, Any]:
    """What its runs follow from, as JSON gives it back; claims and figures may change."""
    return plain({"protocol": {key: getattr(protocol, key) for key in RUNS}})


def _kept(folder: Path, seeds: int | None) -> dict[str, Any]:
    """The identity of the reproduction that is there; it may get more seeds."""
    protocol = REPRODUCTION.read(folder)["protocol"]
    if seeds is not None and protocol["common"].get("seeds", seeds) < seeds:
        protocol["common"]["seeds"] = seeds
    return {"protocol": {key: protocol.get(key) for key in RUNS}}
