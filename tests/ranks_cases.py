"""What each of several ranks does in the tests, and what it comes to as plain data."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import shutil
import signal
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ranks_makers import short_pilots
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import onecycle
from onecycle import Learner
from onecycle.errors import Interrupted, StopTraining
from onecycle.search.pilots import StatePilots
from onecycle.training import ranks
from onecycle.training.loop import Update
from onecycle.training.ranks import Ranks

RANK = int(os.environ.get("RANK", "0"))
N, CLASSES = 111, 4


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def net(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(RANK)  # which must not matter: the main rank's weights are those of all
    return nn.Sequential(nn.Linear(6, 32), *extra, nn.Tanh(), nn.Linear(32, CLASSES))


def digest(*modules: nn.Module) -> str:
    """Of all weights and buffers, to the bit."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


def told(learner: Learner) -> dict[str, Any]:
    """What a learner came to: to be the same on all ranks, and near to that of one rank."""
    return {
        "digest": digest(*learner.state.modules),
        "weights": [p.detach().flatten().tolist() for p in learner.model.parameters()],
        "losses": [row["loss"] for row in learner.history.steps],
        "samples": [row["samples"] for row in learner.history.epochs],
        "epochs": [
            {k: v for k, v in row.items() if k.startswith(("train", "valid"))} for row in learner.history.epochs
        ],
        "valid": None if learner.valid is None else learner.evaluate(),
        "notes": learner.notes,
    }


def classify(*, loader: str = "tensors", norm: bool = False, dropout: bool = False, **options: Any) -> dict[str, Any]:
    x, y = data()
    whole: Any = (x, y)
    if loader == "list":
        whole = list(zip(x.split(37), y.split(37), strict=True))
    elif loader == "dataset":
        whole = TensorDataset(x, y)
    elif loader == "loader":
        whole = DataLoader(TensorDataset(x, y), 37, shuffle=True)
    elif loader == "stream":
        whole = DataLoader(Stream(), 37)
    elif loader == "sampler" and Ranks.here().world == 1:
        whole = DataLoader(TensorDataset(x, y), 36, shuffle=False, drop_last=True)
    elif loader == "workers":
        whole = DataLoader(TensorDataset(x, y), 37, shuffle=True, num_workers=1)
    options = {"optimizer": "sgd", "verbose": False, **({"batch_size": 37} if loader in ("tensors", "dataset") else {}),
               **options}  # fmt: skip
    more = [nn.BatchNorm1d(32)] * norm + [nn.Dropout()] * dropout
    learner = Learner(net(*more), whole, (x[:41], y[:41]), **options)
    learner.fit(f"{9 if loader == 'stream' else 3} {'updates' if loader == 'stream' else 'epochs'}", lr_max=0.05)
    return told(learner)


class Counting(TensorDataset):
    """Counts what is read of it."""

    read = 0

    def __getitem__(self, i: int) -> Any:
        self.read += 1
        return super().__getitem__(i)


def read_by_a_rank() -> dict[str, Any]:
    """How many samples of an epoch a rank reads through a loader of somebody's own."""
    x, y = data()
    dataset = Counting(x, y)
    learner = Learner(net(), DataLoader(dataset, 37, shuffle=True), optimizer="sgd", verbose=False)
    before = dataset.read
    learner.fit_one_cycle(2, 0.05)
    return {"read": dataset.read - before}


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*data(), strict=True)


def sampled() -> dict[str, Any]:
    """A loader that has a part of the data for each rank already."""
    x, y = data()
    ranks = Learner(net(), (x, y), verbose=False).runtime.ranks
    sampler = DistributedSampler(TensorDataset(x, y), ranks.world, ranks.rank, shuffle=True, drop_last=True)
    learner = Learner(net(), DataLoader(TensorDataset(x, y), 12, sampler=sampler), optimizer="sgd", verbose=False)
    learner.fit_one_cycle(2, 0.05)
    return told(learner)


class Endless(DistributedSampler):
    """Indices of 20 batches."""

    def __iter__(self):
        yield from (i % N for i in range(len(self)))

    def __len__(self) -> int:
        return 20 * (24 + 16 * self.rank)


def unequal() -> dict[str, Any]:
    """Loaders of a rank's own whose batches are not of one size: norms that are measured, and pilots."""
    x, y = data()
    samples = TensorDataset(x, y)
    ranks = Learner(net(), (x, y), verbose=False).runtime.ranks
    loader = DataLoader(samples, 24 + 16 * ranks.rank, sampler=Endless(samples, ranks.world, ranks.rank))
    learner = Learner(net(nn.BatchNorm1d(32)), loader, optimizer="sgd", verbose=False)
    short_pilots()
    result = learner.fit_one_cycle(15, "auto")
    pilots = StatePilots(
        learner.state, learner.train, None, lambda lr_max, updates: onecycle.one_cycle(lr_max), 1000, 30
    )
    judged = [pilots.evaluation, len(pilots.held_out), *pilots.levels()]
    return {
        "peak": result.lr_max,
        "judged": judged,
        "sought": any("from 3 pilots" in note for note in learner.notes),
        **told(learner),
    }


def time_first() -> dict[str, Any]:
    """Inputs [length, samples, 6] with targets [samples]; in some batches as many steps as samples."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.within = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.within(x).mean(0)

    x, y = data()
    batches = [(x[: length * 4].reshape(length, 4, 6), y[:4]) for length in (9, 4, 5)]
    learner = Learner(Mean(), batches, optimizer="sgd", verbose=False)
    learner.fit_one_cycle(2, 0.05)
    return told(learner)


def tokens() -> dict[str, Any]:
    """Means over tokens that are not left out, which some parts of a batch have none of."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 9, (40, 5), generator=generator)
    targets = ids.roll(1, 1).where(torch.arange(40)[:, None] % 8 < 3, -100)

    def loss(model: nn.Module, batch: Any) -> Any:
        ids, targets = batch
        counted = (targets != -100).sum()
        return cross_entropy(model(ids).flatten(0, 1), targets.flatten()), {}, counted

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    learner = Learner(model, [(ids[i : i + 8], targets[i : i + 8]) for i in range(0, 40, 8)], loss=loss,
                      optimizer="sgd", verbose=False)  # fmt: skip
    learner.fit_one_cycle(2, 0.1)
    first = told(learner)
    learner = Learner(model, [(ids[i : i + 8], targets[i : i + 8]) for i in range(0, 40, 8)], loss=loss,
                      optimizer="sgd", accumulate=3, clip=0.1, verbose=False)  # fmt: skip
    learner.fit_one_cycle(2, 0.1)
    return {"plain": first, "accumulated": told(learner)}


class Twofold(nn.Module):
    """Two heads, of which a batch uses one; and parts that the loss calls by themselves."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(6, 8), nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(2))

    def encode(self, x: Tensor) -> Tensor:
        return self.body(x).tanh()


def parts_of_a_model(*, by_rank: bool = False) -> dict[str, Any]:
    """Each call leaves one head out, the same on all ranks or not."""
    calls = 0

    def loss(model: Any, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        x, y = batch
        return cross_entropy(model.heads[(calls + by_rank * RANK) % 2](model.encode(x)), y)

    torch.manual_seed(0)
    x, y = data()
    learner = Learner(Twofold(), (x, y), loss=loss, batch_size=20, optimizer="sgd", verbose=False)
    learner.fit_one_cycle(2, 0.05)
    return told(learner)


def trained_loss() -> dict[str, Any]:
    """A criterion with a parameter of its own."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return cross_entropy(outputs * self.scale, targets)

    criterion = Scaled()
    learner = Learner(net(), data(), loss=criterion, batch_size=37, optimizer="adamw", verbose=False)
    learner.fit_one_cycle(3, 0.01)
    return {**told(learner), "scale": criterion.scale.item()}


class Most:
    """A meter of somebody's own: the largest output."""

    def reset(self) -> None:
        self.seen = [-1e9]

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.seen.append(outputs.max().item())

    def compute(self) -> float:
        return max(self.seen)


def metered() -> dict[str, Any]:
    """Metrics of all kinds; of validation data with a sample less than there are ranks too."""
    import torchmetrics as tm

    x, y = data()
    of_torch = tm.MetricCollection([tm.Precision("multiclass", num_classes=CLASSES, average="macro"),
                                    tm.AUROC("multiclass", num_classes=CLASSES)])  # fmt: skip
    classes = {name: name for name in ("accuracy", "f1", "auroc", "balanced_accuracy", "top2")}
    wrapped = tm.MinMaxMetric(tm.Accuracy("multiclass", num_classes=CLASSES))
    learner = Learner(net(), (x, y), (x[:41], y[:41]), optimizer="sgd", batch_size=20, verbose=False,
                      metrics={**classes, "collection": of_torch, "wrapped": wrapped, "most": Most()})  # fmt: skip
    learner.fit_one_cycle(1, 0.05)
    learner.evaluate((x[:1], y[:1]))
    number = {"r2": "r2", "rmse": "rmse", "spearman": tm.SpearmanCorrCoef(), "pearson": tm.PearsonCorrCoef()}
    torch.manual_seed(0)
    numbers = Learner(nn.Linear(6, 1), (x, x.sum(1)), (x[:7], x[:7].sum(1)), metrics=number, optimizer="sgd",
                      batch_size=37, verbose=False)  # fmt: skip
    ids = torch.arange(60).reshape(12, 5) % 9
    words = Learner(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), (ids, ids), (ids[:7], ids[:7]),
                    metrics=["perplexity"], optimizer="sgd", batch_size=6, verbose=False)  # fmt: skip
    return {"classes": learner.evaluate(), "one": learner.evaluate((x[:1], y[:1])), "numbers": numbers.evaluate(),
            "words": words.evaluate(), "notes": learner.notes}  # fmt: skip


def fed() -> dict[str, int]:
    """How many samples of an evaluation of 41 each meter of this rank is given."""
    import torchmetrics as tm

    x, y = data()
    accuracy = tm.Accuracy("multiclass", num_classes=CLASSES)
    learner = Learner(net(), (x, y), (x[:41], y[:41]), optimizer="sgd", verbose=False,
                      metrics={"ours": "balanced_accuracy", "accuracy": accuracy, "most": Most()})  # fmt: skip
    counted = dict.fromkeys(learner.state.loss.meters, 0)
    for name, meter in learner.state.loss.meters.items():
        changed = meter if name == "accuracy" else type(meter)

        def update(*given, name=name, update=changed.update):
            counted[name] += len(given[-1])
            update(*given)

        changed.update = update
    learner.evaluate()
    return counted


def augmented() -> dict[str, Any]:
    """Images whose draws are those of the whole batch, whichever rank has them."""
    loaded = onecycle.load("digits", limit=200)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.manual_seed(0)
    learner = Learner(model, loaded, optimizer="sgd", batch_size=50, augment=("crop", "flip"), verbose=False)
    learner.fit_one_cycle(2, 0.02)
    return told(learner)


def chosen() -> dict[str, Any]:
    """What is decided by losses: a peak, a range test, pilots."""
    x, y = data()
    x, y = x.repeat(8, 1), y.repeat(8)
    learner = Learner(net(nn.Dropout(0.1)), (x, y), (x[:100], y[:100]), optimizer="sgd", batch_size=32, verbose=False)
    before = digest(learner.model)
    test = learner.range_test(updates=64, repeats=1)
    untouched = digest(learner.model) == before
    short_pilots()
    result = learner.fit_one_cycle(10, "auto")
    return {"test": test.lr_max, "edge": test.edge, "peak": result.lr_max, "untouched": untouched,
            "sought": any("from 3 pilots" in note for note in learner.notes), **told(learner)}  # fmt: skip


def recycled() -> dict[str, Any]:
    """A range test that goes through its dozen batches many times."""
    x, y = data()
    learner = Learner(net(), (x[:96], y[:96]), (x[:64], y[:64]), optimizer="sgd", batch_size=8, verbose=False)
    test = learner.range_test(updates=100)
    sweeps = [[sweep.stopped, *sweep.lr, *sweep.loss] for sweep in test.curve.sweeps]
    return {"peak": test.lr_max, "reason": test.reason, "sweeps": sweeps, "updates": test.cost["updates"]}


def lost() -> dict[str, Any]:
    """A sample whose loss is not finite, in one rank's part of a batch, for weights that are not near zero."""
    x, y = data()
    x, y = x.repeat(4, 1), y.repeat(4)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        outputs = model(x)
        mean = cross_entropy(outputs, y)
        return mean / 0 if bool(outputs.detach().abs().max() > 30) else mean

    learner = Learner(net(), (x, y), loss=loss, optimizer="sgd", batch_size=37, verbose=False)
    result = learner.fit_one_cycle(10, 40.0)
    return {**told(learner), "rescues": result.rescues}


def half() -> dict[str, Any]:
    """Gradients that overflow in fp16 at first, on the rank that has the large samples."""
    x, y = data()
    learner = Learner(net(), (x, y), optimizer="sgd", batch_size=37, precision="fp16", verbose=False)
    learner.state.scaler._init_scale = 2.0**40
    learner.fit_one_cycle(2, 0.05)
    return {**told(learner), "scale": learner.state.scaler.get_scale()}


def extended(folder: str) -> dict[str, Any]:
    """A run and its extension in folders that only rank 0 has, and weights that only rank 0 can write and read."""
    os.chdir(Path(folder) / f"disk-{RANK}")
    x, y = data()

    def learner() -> Learner:
        return Learner(net(), (x, y), (x[:41], y[:41]), optimizer="sgd", batch_size=20, verbose=False)

    first = learner()
    first.fit_one_cycle(2, 0.05, out="run")
    first.save("weights.safetensors")
    loaded = learner()
    loaded.load("weights.safetensors")
    more = learner()
    more.extend(2, run="run", out="more")
    seen = sorted(path.name for path in Path.cwd().iterdir())
    return {**told(more), "loaded": digest(loaded.model) == digest(first.model), "seen": seen}


def extension_resumed(folder: str) -> dict[str, Any]:
    """An extension that is stopped and goes on, of a run in a folder that only rank 0 has."""
    os.chdir(Path(folder) / f"disk-{RANK}")
    x, y = data()

    def learner() -> Learner:
        return Learner(net(), (x, y), (x[:41], y[:41]), optimizer="sgd", batch_size=20, verbose=False)

    def look(event: Any) -> None:
        if RANK == 1 and isinstance(event, Update) and event.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    learner().fit_one_cycle(2, 0.05, out="run")
    whole, cut, more = learner(), learner(), learner()
    whole.extend(2, run="run", out="whole")
    with contextlib.suppress(Interrupted):
        cut.extend(2, run="run", out="cut", observers=[look])
    more.extend(2, run="run", out="cut", resume=True)
    return {**told(more), "same": digest(more.model) == digest(whole.model), "stopped": len(cut.history.steps)}


def jobs_extended(folder: str) -> dict[str, Any]:
    """A job and one that extends it, in folders that only rank 0 has."""
    os.chdir(Path(folder) / f"disk-{RANK}")
    job = onecycle.Job("digits", model="mlp", limit=200, budget="1 epochs", lr_max=0.05, optimizer="sgd")
    onecycle.run(job, "run", report=False)
    more = onecycle.run(replace(job, extend="run", policy="extension", lr_max="auto"), "more", report=False)
    return {"valid": more.valid, "seen": sorted(path.name for path in Path.cwd().iterdir())}


def begun_twice(folder: str) -> dict[str, Any]:
    """Two runs in one folder, which rank 0 removes between."""
    os.chdir(folder)
    learner = Learner(net(), data(), optimizer="sgd", batch_size=37, verbose=False)
    learner.fit(1, lr_max=0.05, out="run")
    if RANK == 0:
        shutil.rmtree("run")
    return {"updates": learner.fit(2, lr_max=0.05, out="run").updates}


def pieces(folder: str, size: int) -> tuple[str, int]:
    """The weights of a run as this rank has them, and the most bytes that were sent at once."""
    ranks.PIECE, sent, broadcast = size, [], torch.distributed.broadcast

    def counted(tensor: Tensor, *rest: Any, **more: Any) -> None:
        sent.append(tensor.nbytes)
        broadcast(tensor, *rest, **more)

    torch.distributed.broadcast = counted
    here = Ranks.join("gloo", 60).folder(Path(folder), resume=True, weights=True)
    return (here / "model.safetensors").read_bytes().hex(), max(sent)


def timed(seconds: float) -> dict[str, Any]:
    """A budget of time, on ranks of which one is slow."""
    x, y = data()
    learner = Learner(net(), (x, y), (x[:41], y[:41]), optimizer="sgd", batch_size=37, verbose=False)
    observers = [lambda event: time.sleep(0.01)] * (RANK == 1)
    result = learner.fit(f"{seconds}s", lr_max=0.05, observers=observers)
    return {"updates": result.updates, **told(learner)}


def stopped(how: str) -> dict[str, Any]:
    """Rank 1 alone is asked to stop, after its third update."""
    learner = Learner(net(), data(), optimizer="sgd", batch_size=37, verbose=False)
    seen: list[int] = []

    def look(event: Any) -> None:
        seen.append(1)
        if RANK == 1 and isinstance(event, Update) and event.step == 2:
            if how == "observer":
                raise StopTraining("rank 1 has seen enough")
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        result = learner.fit_one_cycle(50, 0.05, observers=[look])
        said = f"{result.updates}: {learner.notes[-1]}"
    except Interrupted as stop:
        said = str(stop)
    return {"said": said, "digest": digest(learner.model)}


def memory_in_a_pilot() -> None:
    """Rank 1 alone runs out of memory, in a pilot."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        if RANK == 1 and learners and learners[0].state.updates == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cross_entropy(model(x), y)

    x, y = data()
    learners: list[Learner] = []
    learner = Learner(net(), (x, y), loss=loss, optimizer="sgd", batch_size=10, verbose=False, timeout=60)
    learners.append(learner)
    learner.fit_one_cycle(100)


def freed() -> dict[str, Any]:
    """Whether what sums gradients goes with its state."""
    state = Learner(net(), data(), optimizer="sgd", batch_size=37, verbose=False).state
    list(onecycle.train(state, [data()], "2 updates", onecycle.one_cycle(0.1)))
    held = weakref.ref(state._summed[1]._parallel)
    del state
    gc.collect()
    return {"freed": held() is None}


def functions() -> dict[str, Any]:
    """Functions at other addresses on each rank are the same."""
    kept = [object() for _ in range(1000 * RANK)]
    learner = Learner(net(), data(), optimizer=partial(torch.optim.SGD, lr=0.1), batch_size=37, verbose=False)
    learner.fit("1 epoch", lambda updates: onecycle.one_cycle(0.1))
    return {"kept": bool(kept) or True, **told(learner)}


def failing(how: str, timeout: float = 60.0) -> None:
    """Rank 1 alone fails in its third update, or does not come back from it."""

    class Damaged(Dataset):
        calls = 0

        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            Damaged.calls += 1
            if RANK == 1 and Damaged.calls > 100:
                if how == "hang":
                    threading.Event().wait()
                if how == "loader":
                    raise RuntimeError("DataLoader timed out after 2 seconds")
                if how == "memory":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                raise OSError("the disk with sample 7 is gone")
            x, y = data()
            return x[i], y[i]

    learner = Learner(net(), Damaged(), optimizer="sgd", batch_size=37, verbose=False, timeout=timeout)
    learner.fit_one_cycle(50, 0.05)


def unlike(what: str) -> None:
    """Ranks that were given different things."""
    x, y = data()
    mine = RANK == 1
    options: dict[str, Any] = {"optimizer": "sgd", "batch_size": 37, "verbose": False}
    model = net()
    if mine and what == "seed":
        options["seed"] = 1
    if mine and what == "data":
        x = x + 1
    if mine and what == "model":
        model = nn.Linear(6, CLASSES)
    if what == "batch":
        options["batch_size"] = 3
    valid = (x[:40], y[:40] if not (mine and what == "valid") else y[40:80])
    learner = Learner(model, (x, y), valid, **options)
    learner.fit_one_cycle(2 if mine and what == "budget" else 1, 0.05)


def recorded(folder: str, *, die: int | None = None, resume: bool = False, world_seen: bool = False) -> dict[str, Any]:
    """A run in a folder that only rank 0 has; `die` kills rank 1 in this update of a first start."""
    os.chdir(Path(folder) / f"disk-{RANK}")
    x, y = data()
    learner = Learner(net(nn.Dropout(0.2)), (x, y), (x[:41], y[:41]), optimizer="muon", batch_size=20, verbose=False,
                      average=0.9)  # fmt: skip

    def look(event: Any) -> None:
        if die is not None and isinstance(event, Update) and event.step == die and RANK == 1:
            time.sleep(0.3)  # so that the checkpoint of the epoch before is written
            os.kill(os.getpid(), signal.SIGKILL)

    learner.fit_one_cycle(4, 0.05, out="run", resume=resume, observers=[look])
    return {**told(learner), "seen": sorted(path.name for path in Path.cwd().iterdir())}


def fine_tuned(
    folder: str = "", *, die: int | None = None, resume: bool = False, loader: bool = False, **keywords: Any
) -> dict[str, Any]:
    """The head, then all layers, in a folder that only rank 0 has; `die` kills rank 1 in this update of all stages.

    With a `loader` of one's own the head is trained with what is before it.
    """
    if folder:
        os.chdir(Path(folder) / f"disk-{RANK}")
    x, y = data()
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.Tanh())
    model = nn.Sequential(body, nn.Linear(32, CLASSES))
    train: Any = DataLoader(TensorDataset(x, y), 20, shuffle=True) if loader else (x, y)
    options = {} if loader else {"batch_size": 20}
    learner = Learner(model, train, (x[:41], y[:41]), optimizer="adamw", sync_batchnorm=True, verbose=False, **options)
    made: list[int] = []
    step = torch.optim.AdamW.step

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        made.append(1)
        if RANK == 1 and len(made) == die:
            time.sleep(0.3)  # so that the checkpoint of the epoch before is written
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *given, **more)

    torch.optim.AdamW.step = counted  # type: ignore[method-assign]
    out = {"out": "run", "resume": resume} if folder else {}
    result = learner.fine_tune(**{"epochs": 3, "lr_max": 0.01, "method": "discriminative", **keywords}, **out)
    return {**told(learner), "result": result.valid, "updates": len(made), "trained": len(learner.history.steps),
            "seen": sorted(path.name for path in Path.cwd().iterdir()) if folder else []}  # fmt: skip
