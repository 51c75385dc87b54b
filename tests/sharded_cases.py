"""What each rank does in the tests of models in shards, and what it comes to as plain data."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import onecycle
from onecycle import Learner
from onecycle.models.transformer import char_transformer
from onecycle.search.trial import trial
from onecycle.training.loop import Update
from onecycle.training.probe import positions_of

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
SHARD = WORLD > 1


def texts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Inputs and targets int64 [n, 8] for training and validation."""
    ids = torch.randint(0, 7, (96, 9), generator=torch.Generator().manual_seed(1))
    ids[:, 1:] = (2 * ids[:, :-1] + 1) % 7
    return (ids[:64, :-1], ids[:64, 1:]), (ids[64:, :-1], ids[64:, 1:])


def transformer() -> nn.Module:
    torch.manual_seed(RANK)  # which must not matter: the main rank's weights are those of all
    return char_transformer(input_shape=(8,), classes=7, width=12, depth=3, heads=2)


def learner(**options: Any) -> Learner:
    """One whose model is in shards where there are several ranks."""
    if options.get("optimizer") == "steady":  # noise is all that biases of keys go by otherwise
        options["optimizer"] = lambda groups: torch.optim.AdamW(groups, lr=0.01, eps=1e-3)
    return Learner(transformer(), *texts(), batch_size=16, verbose=False, shard=SHARD, **options)


def told(learn: Learner) -> dict[str, Any]:
    """What a learner came to, which is the same on all ranks; the weights on the main one."""
    weights = learn.state.state_dict()["model"] if RANK == 0 else learn.state.state_dict() and {}
    return {
        "losses": [row["loss"] for row in learn.history.steps],
        "valid": learn.evaluate(),
        "resolved": {name: learn.resolved.get(name) for name in ("optimizer", "parameters", "matrices_by_adamw")},
        "weights": {name: value.flatten().tolist() for name, value in weights.items()},
    }


def fitted(budget: str = "12 updates", **options: Any) -> dict[str, Any]:
    learn = learner(**options)
    learn.fit(budget, "one_cycle", 0.01)
    return told(learn)


def run(out: str, *, resume: bool = False, killed_at: int | None = None, **options: Any) -> dict[str, Any]:
    """A run in a folder, in which the main rank dies after an update where that is asked for."""

    def die(event: Any) -> None:
        if isinstance(event, Update) and event.step == killed_at and RANK == 0:
            os._exit(9)

    learn = learner(evaluate_every=2, average=0.9, keep_best="loss", **options)
    learn.fit(3, "one_cycle", 0.01, out=out, resume=resume, observers=[die])
    return told(learn)


def tried() -> dict[str, Any]:
    """A range test and a pilot, which leave no trace, and a fit after them."""
    learn, plain = learner(optimizer="sgd"), learner(optimizer="sgd")
    test = learn.range_test(updates=64, repeats=1)
    pilot = trial(learn.state, learn.train, "8 updates", onecycle.one_cycle(0.1), learn.evaluate)
    for one in (learn, plain):
        one.fit("4 updates", "one_cycle", 0.1)
    assert [row["loss"] for row in learn.history.steps] == [row["loss"] for row in plain.history.steps]
    return {"line": test.line(), "losses": [pilot.loss], "valid": pilot.valid, **told(learn)}


def saved_and_loaded(path: str) -> list[dict[str, float]]:
    first, second = learner(optimizer="sgd"), learner(optimizer="sgd", seed=1)
    first.fit("4 updates", "one_cycle", 0.1)
    first.save(path)
    second.load(path)
    return [first.evaluate(), second.evaluate()]


def weighted() -> dict[str, Any]:
    """A loss of which the first rank's part weighs nothing."""

    def loss(model: nn.Module, batch: Any) -> Any:
        x, y = batch
        counts = torch.ones_like(y)
        counts[: 8 if len(x) == 16 else 8 * (RANK == 0)] = 0
        each = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none") * counts.flatten()
        return each.sum() / counts.sum(), {}, counts.sum()

    learn = learner(optimizer="sgd", loss=loss, accumulate=2)
    learn.fit("6 updates", "one_cycle", 0.1)
    return {"losses": [row["loss"] for row in learn.history.steps]}


class Scaled(nn.Module):
    """A criterion with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * outputs.flatten(0, 1), targets.flatten())


def with_criterion() -> dict[str, Any]:
    learn = learner(optimizer="steady", loss=Scaled(), clip=0.5)
    learn.fit("6 updates", "one_cycle", 0.1)
    state = learn.state.state_dict()  # which takes all ranks
    scale = [module["scale"].tolist() for module in state["loss"]] if RANK == 0 else 0
    return {"losses": [row["loss"] for row in learn.history.steps], "weights": scale}


def positions() -> list[tuple[str, float]]:
    """To how many positions each weight is applied."""
    learn = learner(optimizer="sgd")
    counted = positions_of(learn.model, texts()[0], learn.runtime.alone)
    return [(name, counted[p]) for name, p in learn.model.named_parameters() if p in counted]


class PartlyUsed(nn.Module):
    """A model that leaves out a layer, and one more where an input is negative."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.never = nn.Linear(6, 8), nn.Linear(8, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.some, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[0](self.first(x)).relu()
        return self.head(y + self.some(y) if bool(x[0, 0] > 0) else y)


def partly_used() -> dict[str, Any]:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    x[::8, 0] = torch.tensor([-1.0, -2.0, -1.0, -2.0, 1.0, -1.0, -1.0, -2.0])  # the first of each part, in their order
    data = [(x[i : i + 16], (x[i : i + 16, 1] > 0).long()) for i in range(0, 64, 16)]
    learn = Learner(PartlyUsed(), data, optimizer="adamw", verbose=False, shard=SHARD)
    learn.fit("4 updates", "one_cycle", 0.1)
    state = learn.state.state_dict()
    names = [name for name, _ in learn.model.named_parameters()]
    numbers = [n for group in state["optimizer"]["param_groups"] for n in group["params"]]
    order = {
        id(p): n for n, p in zip(numbers, (p for g in learn.optimizer.param_groups for p in g["params"]), strict=True)
    }
    kept = state["optimizer"]["state"]
    return {name: sorted(kept.get(order[id(p)], {})) for name, p in zip(names, learn.model.parameters(), strict=True)}


class Unlike(nn.Module):
    """A model that uses the weights of its layers without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 16)
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
        return self.head(x)


def refused(what: str) -> str:
    """What is said to what cannot be in shards."""
    try:
        if what == "weights":
            Learner(Unlike(), *texts(), batch_size=16, verbose=False, shard=True)
        elif what == "part":
            loss = lambda model, batch: model.head(model.embedding(batch[0])).sum()  # noqa: E731
            Learner(Unlike(), *texts(), loss=loss, batch_size=16, verbose=False, shard=True)
        elif what == "sharpness":
            learner().range_test(updates=64, full=True)
        elif what == "profile":
            learner().profile("3s")
        elif what == "optimizer":
            learner(optimizer=torch.optim.Adafactor).fit("4 updates", lr_max=0.01)
        elif what == "sharded":
            Learner(learner().model, texts()[0], batch_size=16, verbose=False, shard=True)
        elif what == "lazy":
            lazy = nn.Sequential(nn.LazyLinear(7), nn.Linear(7, 7))
            Learner(lazy, (torch.ones(64, 8), torch.ones(64, 7)), batch_size=16, verbose=False, shard=True)
    except onecycle.errors.OneCycleError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
