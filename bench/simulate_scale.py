"""Measured costs in, a cluster out: what training on 8, 64 and 1,024 GPUs comes to, on paper.

    python bench/simulate_scale.py [--table NAME] [--costs bench/out/simulate_costs.json] [--own own.json]

Prints the tables of docs/scale.md, "On paper", or NAME alone. Nothing here was run on a GPU. `--costs` takes what
bench/simulate_costs.py measured on another machine. `--own` takes seconds of the library's own part of an update by
number of ranks, as bench/scale.py prints them, such as {"1": 5e-5, "2": 9e-5}; the most of them counts.

On the device an update is the forward and backward of the slowest rank, and what of the gradients' all-reduce the
backward pass does not hide. On the host it is launching their kernels, what ranks agree on (`agreeing`; in a run by
updates or epochs nothing: signals are summed with the gradients), and the library's own part. A host that waits for its
device in each update adds up (`in_turn`), as it does on several ranks: there DDP reads which parameters no rank has
used. One that runs ahead costs nothing until it takes longer (`ahead`), as in the published runs. Each number has its
source: --table inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onecycle import text

WORLDS = (1, 8, 64, 1024)
UPDATES = 500_000  # made before a restart
HOUR = 3600.0
MEASURED = "python bench/simulate_costs.py, 2026-11-28, 2 cores of an AMD EPYC, load 1 to 3, torch 2.13.0"
BUSY = "the same at load 8, nice -n 19"


def given(value: Any, source: str) -> Any:
    """A field's default and where it comes from."""
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Costs:
    """Of this library, in seconds and bytes."""

    own: float = given(5.3e-5, f"a Learner beyond a hand-written loop, mlp, batch 32, one rank: {MEASURED}")
    told: float = given(2.1e-4, f"a step of the main rank's clock, gloo's broadcast with 2 ranks, loopback: {BUSY}")
    agreed: float = given(3.1e-4, f"a step of `Ranks.largest`, .63 ms for 2 with 2 ranks, loopback: {BUSY}")
    summed: float = given(
        1.5e-4, f"a step of gloo's all-reduce, .31 ms for 2 with 2 ranks, .57 for 4 with 3, loopback: {MEASURED}"
    )
    join: float = given(
        1.2, f"joining a gloo group of 96 ranks: {MEASURED}; .05 s with 16, .13 with 32, .49 with 64, medians of 3"
    )
    joined: int = given(96, "the ranks of that group")
    row: float = given(165.0, f"of an update in steps.jsonl: {MEASURED}")
    kept: float = given(498.0, f"of an update in the History in memory: {MEASURED}")
    read: float = given(9.7e-6, f"to read a row of steps.jsonl again: {MEASURED}")
    sent: float = given(1.4e9, f"bytes a second of a broadcast through gloo, two ranks, loopback: {MEASURED}")
    imports: float = given(3.9, f"to import torch and a Learner, from a local disk: {MEASURED}")
    drawn: float = given(4.4e-8, f"a sample of torch.randperm(1e8), .044 at 1e7: {MEASURED}")
    computed: float = given(1.9e-7, f"a sample of a computed order in batches of 32, 1.2e-7 in 256: {MEASURED}")


@dataclass(frozen=True)
class Cluster:
    """Nodes of eight GPUs, in bytes a second and seconds."""

    node: int = given(8, "GPUs a node: NVIDIA DGX A100")
    nvlink: float = given(235e9, "bus bandwidth of A100s within a node: NVIDIA/nccl, src/graph/tuning.cc")
    network: float = given(
        0.9 * 200e9, "8 x 200 Gb/s InfiniBand a node (DGX A100), of which .9 is assumed to be reached"
    )
    base: float = given(8.4e-6, "start of a collective: NCCL's tuning.cc, ring, Simple")
    ring_inside: float = given(3.4e-6, "a ring's step over NVLink: the same")
    ring_outside: float = given(9.6e-6, "a ring's step over the network: the same")
    tree_inside: float = given(1.2e-6, "a tree's step over NVLink, LL128: the same")
    tree_outside: float = given(8.5e-6, "a tree's step over the network, LL128: the same")
    tree_share: float = given(0.9 * 0.915, "of the bandwidth that a tree reaches: the same")
    pcie: float = given(20e9, "from a GPU to its host: PCIe 4.0 x16, 32 GB/s, of which two thirds are assumed")
    disk: float = given(2e9, "of a checkpoint, one writer on shared storage: assumed")
    spread: tuple[float, float] = given(
        (0.02, 0.05), "of a rank's time for an update, standard deviation: fitted, see the table of published runs"
    )


INFINIBAND = Cluster()
ETHERNET = replace(INFINIBAND, network=0.8 * 12.5e9, ring_outside=3e-5, tree_outside=3e-5)
CLUSTERS = {"InfiniBand": INFINIBAND, "Ethernet": ETHERNET}
# 100 Gb/s a node, as AWS p3dn.24xlarge has; .8 of it and 30 us a step over TCP are assumed.


@dataclass(frozen=True)
class Workload:
    """A model and its batch: seconds of forward and backward a sample on one GPU, and of launching them on its host."""

    name: str
    sample: float
    launch: float
    parameters: float
    batch: int  # of a GPU, in weak scaling
    total: int  # of all GPUs, in strong scaling
    state: float  # bytes a parameter in a checkpoint
    source: str
    gradient: float = 4.0  # bytes a parameter: float32, as autocast leaves them


RESNET = Workload(
    "ResNet-50", 1 / 2470, 0.038, 25.6e6, 256, 32_768, 8,
    "2,470 images/s, one A100, AMP, batch 256: NVIDIA/DeepLearningExamples, PyTorch resnet50v1.5, README; launching "
    "takes .038 s: 3 x the 12.8 ms of one image's forward there (V100, AMP)",
)  # fmt: skip
TRANSFORMER = Workload(
    "transformer", 2048 / 24_000, 0.03, 1.1e9, 8, 1024, 12,
    "1.1e9 parameters, 2,048 tokens a sample: 24,000 tokens/s an A100-40G, batch of 16,000 tokens: TinyLlama, README; "
    "that of a run on 16 GPUs, so that its communication is in it already; launching is assumed to take .03 s",
)  # fmt: skip
WORKLOADS = (RESNET, TRANSFORMER)
# GPU-hours between failures that stop a run.
FAILURES = {
    "Llama 3": (
        16_384 * 54 * 24 / 419,
        "419 unexpected interruptions in 54 days of 16,384 H100 (arXiv 2407.21783, section 3.3.4)",
    ),
    "OPT": (
        992 * 7.5,
        "7.5 hours between interruptions of 992 A100 (glennklockwood.com/garden/job-reliability, of arXiv 2205.01068)",
    ),
}


# -- an update ---------------------------------------------------------------------------------------------------------


def all_reduce(size: float, world: int, cluster: Cluster) -> float:
    """Seconds of NCCL's better of ring and tree for so many bytes, by its own model of latency and bandwidth."""
    if world == 1:
        return 0.0
    nodes = math.ceil(world / cluster.node)
    bandwidth = cluster.nvlink if nodes == 1 else min(cluster.nvlink, cluster.network)
    outside = 2 * (nodes - 1)
    ring = cluster.base + (2 * (world - 1) - outside) * cluster.ring_inside + outside * cluster.ring_outside
    ring += 2 * (world - 1) / world * size / bandwidth
    inside = min(world, cluster.node) - 1
    tree = cluster.base + 2 * (inside * cluster.tree_inside + math.log2(nodes) * cluster.tree_outside)
    tree += 2 * size / (bandwidth * cluster.tree_share)
    return min(ring, tree)


def agreeing(
    world: int, costs: Costs, *, timed: bool = False, observed: bool = False, divided: bool = False
) -> float:  # fmt: skip
    """Seconds of what ranks agree on in an update, on their hosts, by steps that follow each other.

    In a time budget the main rank's clock goes down a tree; with observers what they ask for goes up and down one.
    Where data are `divided` before, so does whether any rank has another batch, and their samples go round a ring.
    """
    tree = math.ceil(math.log2(world)) * (costs.told * timed + 2 * costs.agreed * (observed + divided))
    return tree + 2 * (world - 1) * costs.summed * divided


def slowest(world: int) -> float:
    """The expected largest of so many normal draws, in standard deviations (Blom's approximation)."""
    return 0.0 if world == 1 else statistics.NormalDist().inv_cdf((world - 0.375) / (world + 0.25))


@dataclass(frozen=True)
class UpdateTime:
    """The parts of an update's seconds."""

    compute: float
    waiting: float
    gradients: float
    launching: float
    agreeing: float
    own: float

    @property
    def ahead(self) -> float:
        """Where the host runs ahead of its device."""
        return max(self.compute + self.waiting + self.gradients, self.launching + self.agreeing + self.own)

    @property
    def in_turn(self) -> float:
        """Where the host waits for its device in each update."""
        return max(self.compute, self.launching) + self.waiting + self.gradients + self.agreeing + self.own


def update(
    work: Workload, world: int, batch: float, cluster: Cluster, spread: float, costs: Costs, *,
    timed: bool = False, observed: bool = False,
) -> UpdateTime:  # fmt: skip
    """An update of `batch` samples a GPU, in passes of at most the workload's own batch.

    Gradients go in buckets of 25 MiB while the last backward pass, two thirds of its time, goes on.
    """
    compute, passes = batch * work.sample, math.ceil(batch / work.batch)
    size = work.gradient * work.parameters
    buckets = max(1, math.ceil(size / (25 * 2**20)))
    bucket = all_reduce(size / buckets, world, cluster)
    hidden = 2 / 3 * max(compute / passes, work.launch) * (1 - 1 / buckets)
    gradients = max(buckets * bucket - hidden, bucket) if world > 1 else 0.0
    gradients += all_reduce(4 * 256, world, cluster)  # which parameters were used
    waiting = spread * slowest(world) * compute
    agreed = agreeing(world, costs, timed=timed, observed=observed)
    return UpdateTime(compute, waiting, gradients, passes * work.launch, agreed, costs.own)


def efficiency(work: Workload, batch: float, seconds: float) -> float:
    """Samples a second over those of GPUs that each train alone, at their best batch."""
    return batch * max(work.launch / work.batch, work.sample) / seconds


# -- failures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recovery:
    """A run that saves and starts again: seconds of it."""

    work: float  # to be done
    every: float  # from one save to the next
    save: float  # that the training waits
    written: float  # from then on, until it counts
    restart: float
    between: float  # failures, of all GPUs together

    @property
    def expected(self) -> float:
        """The expectation of the whole time, piece by piece (Daly, FGCS 22, 2006), where a save counts at once."""
        m, pieces = self.between, math.ceil(self.work / self.every)
        last = self.work - (pieces - 1) * self.every
        each = (pieces - 1) * math.expm1((self.every + self.save) / m) + math.expm1(last / m)
        return m * math.exp(self.restart / m) * each

    def simulated(self, draw: random.Random) -> float:
        """One life: failures after exponential times, at restarts too; what was not yet on disk is lost."""
        clock, done, part = 0.0, 0.0, self.every + self.save
        while True:
            left = self.work - done
            failure, finish = draw.expovariate(1 / self.between), left + self.save * (math.ceil(left / self.every) - 1)
            if failure >= finish:
                return clock + finish
            saved = max(0, math.floor((failure - self.written) / part))
            done += min(saved * self.every, left)
            clock += failure
            while (again := draw.expovariate(1 / self.between)) < self.restart:
                clock += again
            clock += self.restart

    def lives(self, n: int, seed: int = 0) -> tuple[float, float]:
        """The mean of n simulated lives, and its standard error."""
        draw = random.Random(seed)
        taken = [self.simulated(draw) for _ in range(n)]
        return statistics.mean(taken), statistics.stdev(taken) / math.sqrt(n)


def young(save: float, between: float) -> float:
    """The best seconds between saves (Young, CACM 17, 1974)."""
    return math.sqrt(2 * save * between)


def default_every(save: float) -> float:
    """Seconds between checkpoints as this library takes them: 30, or as many as keep what they cost to 1 %."""
    return max(30.0, save / 0.01)


def restart_parts(work: Workload, world: int, cluster: Cluster, costs: Costs, updates: float) -> dict[str, float]:
    """Seconds from a failure to the next update; `updates` are those made so far, whose records are read."""
    state, records, hops = work.state * work.parameters, costs.row * updates, math.ceil(math.log2(world))
    return {
        "noticed": 15.0,  # torchrun's keep-alive: 3 x 5 s; a rank that hangs is noticed after NCCL's 600 s
        "import": costs.imports,
        "gloo": costs.join * (world / costs.joined) ** 2,
        # 4.5 s for 8 GPUs (NVIDIA/nccl#587), 150 s for "certain K" (NVIDIA/nccl#1156), taken as 4,096: a line between
        "NCCL": 4.5 + max(0, world - 8) / (4096 - 8) * (150 - 4.5),
        "reading": state / cluster.disk,
        "sending": hops * state / costs.sent,  # the main rank sends it so often, whole
        "records": hops * records / costs.sent + costs.read * updates,
    }


# -- tables ------------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def span(low: float, high: float, say: Callable[[float], str]) -> str:
    first, last = say(low), say(high)
    return first if first == last else f"{first} to {last}"


def percent(share: float) -> str:
    return text.percent(share, 0)


def amount(x: float) -> str:
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def scaling(costs: Costs, weak: bool) -> Iterator[str]:
    """Samples a second and efficiency by world size, from the larger spread of ranks to the smaller."""
    head = ["model", "network", "GPUs", "batch", "forward, backward", "gradients", "launching", "samples/s"]
    rows = [
        scaled(work, name, world, work.batch if weak else work.total / world, costs)
        for work in WORKLOADS
        for name in CLUSTERS
        for world in WORLDS
        if name == "InfiniBand" or world > CLUSTERS[name].node
    ]
    yield from table([*head, "10^10 samples", "efficiency", "in a time budget with observers"], rows)


def scaled(work: Workload, name: str, world: int, batch: float, costs: Costs) -> list[str]:
    cluster, total = CLUSTERS[name], batch * world

    def seconds(agree: bool) -> list[float]:
        times = (update(work, world, batch, cluster, x, costs, timed=agree, observed=agree) for x in cluster.spread)
        return sorted((time.in_turn for time in times), reverse=True)

    time, (slow, fast) = update(work, world, batch, cluster, 0.0, costs), seconds(False)
    return [
        work.name, name if world > cluster.node else "one node" if world > 1 else "", f"{world:,}", f"{total:,.0f}",
        text.short_duration(time.compute), text.short_duration(time.gradients), text.short_duration(time.launching),
        span(total / slow, total / fast, amount), days(1e10 / total * slow),
        *(span(*(efficiency(work, batch, taken) for taken in seconds(agree)), percent) for agree in (False, True)),
    ]  # fmt: skip


def days(seconds: float) -> str:
    return f"{seconds / 86400:,.0f} days" if seconds > 48 * HOUR else f"{seconds / HOUR:.0f} h"


def agreements(costs: Costs) -> Iterator[str]:
    """What ranks agree on in each update, by how the run is asked for."""
    kinds: dict[str, dict[str, bool]] = {
        "by updates or epochs": {}, "in a time budget": {"timed": True}, "with observers": {"observed": True},
        "both": {"timed": True, "observed": True}, "each rank with batches of its own": {"divided": True},
    }  # fmt: skip
    rows = [
        [f"{world:,}", *(text.short_duration(agreeing(world, costs, **kind)) for kind in kinds.values())]
        for world in WORLDS[1:]
    ]
    yield from table(["GPUs", *kinds], rows)


def published(costs: Costs) -> Iterator[str]:
    """What others measured, what the model says where no rank waits, and the spread of ranks that explains the rest."""
    pascal = replace(RESNET, name="ResNet-50, P100", sample=0.23 / 32, batch=32)
    slow = replace(ETHERNET, network=0.8 * 6.25e9)
    cases = [
        ("8 A100, TF32: 7.72 x one (NVIDIA's README)", replace(RESNET, sample=1 / 938), 1, 8, INFINIBAND, 7.72 / 8),
        ("8 V100, FP32: 7.76 x one (the same)", replace(RESNET, sample=1 / 367, batch=128), 1, 8, INFINIBAND, 7.76 / 8),
        ("256 P100, 50 Gb/s: about 90 % of 8 (arXiv 1706.02677)", pascal, 8, 256, slow, 0.9),
    ]
    alone = replace(costs, own=0.0)
    rows = []
    for name, work, few, many, cluster, measured in cases:

        def ratio(spread: float, work=work, few=few, many=many, cluster=cluster) -> float:
            one, other = (update(work, world, work.batch, cluster, spread, alone).ahead for world in (few, many))
            return one / other

        rows.append([name, percent(measured), percent(ratio(0.0)), text.percent(fitted(ratio, measured), 1)])
    yield from table(["run", "efficiency, measured", "model, all ranks alike", "spread that explains it"], rows)


def fitted(ratio: Callable[[float], float], measured: float) -> float:
    """The spread at which `ratio`, which falls with it, is as measured; by halving."""
    low, high = 0.0, 0.5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) > measured else (low, middle)
    return low


def sizes(costs: Costs, samples: float = 1e10) -> Iterator[str]:
    """One epoch of so many samples, 32 a GPU: what is kept of its updates."""
    rows = []
    for world in WORLDS[1:]:
        updates = samples / (32 * world)
        rows.append([
            f"{world:,}", f"{updates:,.0f}", text.size(updates * costs.row), text.size(updates * costs.kept),
            text.duration(updates * costs.read),
        ])  # fmt: skip
    yield from table(["GPUs", "updates", "steps.jsonl", "history in memory", "reading it again, in a resume"], rows)


def orders(costs: Costs) -> Iterator[str]:
    """An order that is drawn beside one that is computed, by the number of samples."""
    rows = []
    for samples in (1e7, 1e8, 1e9, 1e10):
        lists = 8 * samples + 40 * samples  # torch.randperm(n).tolist(): the tensor, pointers and whole numbers
        rows.append([
            text.number(samples), text.size(8 * samples), text.duration(samples * costs.drawn),
            text.size(lists), "65.5 kB", text.short_duration(32 * costs.computed),
        ])  # fmt: skip
    head = ["samples", "drawn", "seconds at each epoch's begin", "as a list (RandomSampler)", "computed"]
    yield from table([*head, "seconds a batch of 32"], rows)


def restarts(costs: Costs) -> Iterator[str]:
    rows = []
    for world in WORLDS[1:]:
        parts = restart_parts(TRANSFORMER, world, INFINIBAND, costs, UPDATES)
        rows.append(
            [f"{world:,}", *(text.duration(value) for value in parts.values()), text.duration(sum(parts.values()))]
        )
    yield from table(
        ["GPUs", "noticed", "import", "gloo group", "NCCL", "reading", "sending", "records", "in all"], rows
    )


def lost(costs: Costs, lives: int = 2000) -> Iterator[str]:
    """The transformer for 100 hours of work on 1,024 GPUs: time beyond that, by seconds between checkpoints."""
    state = TRANSFORMER.state * TRANSFORMER.parameters
    save, written = state / INFINIBAND.pcie, state / INFINIBAND.disk
    restart = sum(restart_parts(TRANSFORMER, 1024, INFINIBAND, costs, UPDATES).values())
    rows = []
    for name, (hours, _) in FAILURES.items():
        between = hours * HOUR / 1024
        intervals = {default_every(save): " (default)", young(save, between): " (Young)", HOUR: "", 6 * HOUR: ""}
        for every, which in intervals.items():
            run = Recovery(100 * HOUR, every, save, 0.0, restart, between)
            late = replace(run, written=written)
            cells = [beyond(run.work, *it.lives(lives, seed)) for seed, it in enumerate((run, late))]
            rows.append([
                name, f"{between / HOUR:.1f} h", text.duration(every) + which,
                text.percent(run.expected / run.work - 1), *cells,
            ])  # fmt: skip
    head = ["failures as", "one in", "a checkpoint every", "lost, by formula", f"simulated, n = {lives:,}"]
    yield from table([*head, f"simulated, on disk {text.duration(written)} later"], rows)


def beyond(work: float, mean: float, error: float) -> str:
    return f"{text.percent(mean / work - 1)} ± {100 * error / work:.2f}"


def batches(costs: Costs) -> Iterator[str]:
    """Samples and updates for one result by the size of the global batch (arXiv 1812.06162, section 2)."""
    rows = []
    for critical, name in ((2e3, "2,000"), (2e4, "20,000"), (1e6, "1,000,000")):
        for world in WORLDS[1:]:
            batch = 32 * world
            more, least = 1 + batch / critical, 1 + critical / batch
            first = 1 + 32 * 8 / critical
            rows.append([
                name, f"{world:,}", f"{batch:,}", f"{more:.3g} x", f"{amount(least)} x",
                f"{world / 8 * first / more:.3g} x",
            ])  # fmt: skip
    head = ["critical batch", "GPUs", "batch", "samples, over the fewest", "updates, over the fewest"]
    yield from table([*head, "sooner than 8 GPUs, at best"], rows)


def inputs(costs: Costs) -> Iterator[str]:
    """Every number that goes in, and where it is from."""
    known = [(it, f) for it in (costs, INFINIBAND) for f in fields(it)]
    rows = [[f.name, said(getattr(it, f.name)), f.metadata["source"]] for it, f in known]
    rows += [[work.name, f"{work.sample:.3g} s a sample", work.source] for work in WORKLOADS]
    rows += [[f"failures as {name}", f"{hours:,.0f} GPU-hours", source] for name, (hours, source) in FAILURES.items()]
    yield from table(["input", "value", "source"], rows)


def said(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(said, value))
    return f"{value:,.0f}" if 100 <= value < 1e6 else text.number(value)


TABLES: dict[str, Callable[[Costs], Iterator[str]]] = {
    "weak": lambda costs: scaling(costs, weak=True),
    "strong": lambda costs: scaling(costs, weak=False),
    "agreements": agreements, "published": published, "sizes": sizes, "orders": orders, "restarts": restarts,
    "lost": lost, "batches": batches, "inputs": inputs,
}  # fmt: skip


def measured_costs(measured: dict[str, Any]) -> Costs:
    """The costs in a file of bench/simulate_costs.py."""
    groups, records, order = measured["group"], measured["records"], measured["order"]
    largest = max(groups, key=int)
    return replace(
        Costs(), own=measured["update"]["own"], told=groups["2"]["told"], agreed=groups["2"]["agreed"] / 2,
        summed=groups["2"]["summed"] / 2, row=records["bytes"], kept=records["memory"],
        read=records["read"], imports=measured["start"]["onecycle"], drawn=order["drawn of 1e+08"],
        computed=order["computed in 32"], join=groups[largest]["join"], joined=int(largest),
        sent=1 / groups["2"]["a byte sent"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, help="this one alone")
    parser.add_argument("--costs", type=Path, help="what bench/simulate_costs.py measured")
    parser.add_argument("--own", type=Path, help="seconds of the library's own part, by number of ranks")
    arguments = parser.parse_args()
    costs = Costs() if arguments.costs is None else measured_costs(json.loads(arguments.costs.read_text()))
    if arguments.own is not None:
        costs = replace(costs, own=max(json.loads(arguments.own.read_text()).values()))
    for name in [arguments.table] if arguments.table else TABLES:
        print(f"{name}\n")
        print(*TABLES[name](costs), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
