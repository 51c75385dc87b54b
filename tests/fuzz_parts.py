"""What trainings drawn at random are made of, beside torch; their scripts import all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler  # noqa: F401
from torchmetrics.classification import MulticlassAccuracy  # noqa: F401

from onecycle import Learner, Supervised, TrainState, Update, as_batches, evaluate, preset, train  # noqa: F401


class Stream(IterableDataset):
    """Samples that come one after another."""

    def __init__(self, x: Tensor, y: Tensor):
        self.samples = list(zip(x, y, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)


class Sized(Stream):
    """Samples that come one after another, of a known number."""

    def __len__(self) -> int:
        return len(self.samples)


class Anew:
    """Batches that can be gone through again and again, of an unknown number."""

    def __init__(self, batches: list[Any]):
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches


class Pair(NamedTuple):
    """A batch with names."""

    x: Tensor
    y: Tensor


class Samples(Dataset):
    """Samples by number, as lists."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return [self.x[i], self.y[i]]


class Last(nn.Module):
    """An LSTM that returns its last state, [n, 6], or all of them, [n, length, 6]."""

    def __init__(self, every: bool = False):
        super().__init__()
        self.lstm, self.every = nn.LSTM(5, 6, batch_first=True), every

    def forward(self, x: Tensor) -> Tensor:
        states = self.lstm(x)[0]
        return states if self.every else states[:, -1]


class Bare(nn.Module):
    """Parameters without modules, complex ones among them, a scalar, and one that is not used but every other time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.turns = nn.Parameter(torch.randn(6, dtype=torch.complex64))
        self.scale = nn.Parameter(torch.ones(()))
        self.lists = nn.ParameterList([torch.zeros(6), torch.zeros(6)])

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight * self.turns).real * self.scale + self.lists[len(x) % 2]


class Attention(nn.Module):
    """Self-attention over five numbers, each a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(1, 6), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x[..., None])
        return self.attend(tokens, tokens, tokens, need_weights=False)[0].mean(1)


class Picked(nn.Module):
    """The last state of what a recurrent layer gives."""

    def forward(self, both: Any) -> Tensor:
        return both[0][:, -1]


class Tied(nn.Module):
    """One matrix, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.again = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.one(x).tanh())


class Counting(nn.Module):
    """A buffer that counts the batches of training, and one that follows the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(5))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.mean = self.mean * 0.9 + 0.1 * x.detach().to(self.mean.dtype).mean(0)
        return x - self.mean


class Wrapped(nn.Module):
    """What a model gives, in a tuple or a dictionary, or with the classes along axis 1."""

    def __init__(self, model: nn.Module, kind: str):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, x: Tensor) -> Any:
        out = self.model(x)
        return {"tuple": (out, x), "dict": {"out": out}}[self.kind] if self.kind != "axis 1" else out.movedim(-1, 1)


class Scaled(nn.Module):
    """A criterion with a parameter and a buffer."""

    def __init__(self, criterion: Any):
        super().__init__()
        self.criterion, self.scale = criterion, nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.criterion(outputs * self.scale.exp(), targets)


class Focal(nn.Module):
    """A criterion of the user's own, with a buffer; classes are targets [n]."""

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(logits, labels, self.weight, reduction="none")
        return ((1 - (-each).exp()) ** self.gamma * each).mean()


def labels(classes: int, *shape: int) -> Tensor:
    """Whole targets, int64; the first are 0, 1, ..."""
    drawn = torch.randint(0, classes, shape)
    first = drawn.view(-1)[:classes]
    first.copy_(torch.arange(len(first)))
    return drawn


def some_left_out(targets: Tensor, number: int = -100) -> Tensor:
    """The targets, a third of them `number`."""
    return targets.masked_fill(torch.rand(targets.shape) < 0.33, number)


def several(n: int, k: int) -> Tensor:
    """Rows of 0 and 1, [n, k], with two or more ones."""
    drawn = (torch.rand(n, k) < 0.5).float()
    return drawn.where(drawn.sum(1, keepdim=True) > 1, 1.0)


def plain_criterion(outputs: Tensor, targets: Tensor) -> Tensor:
    """A criterion of the user's own, for targets [n] that are classes."""
    return F.cross_entropy(outputs, targets) + outputs.square().mean()


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a structure of any depth, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def own(criterion: Any, returns: int) -> Any:
    """A loss ``fn(model, batch)`` that returns one thing, two or three."""

    def loss(model: nn.Module, batch: Any) -> Any:
        x, y = tensors_in(batch)[:2]
        out = tensors_in(model(x))[0]
        mean = criterion(out, y)
        return (mean, {"size": out.detach().abs().mean()}, (y != -100).sum())[:returns] if returns > 1 else mean

    loss.owned = True
    return loss


def as_loss(loss: Any) -> Any:
    """What `train` takes: ``fn(model, batch)``, or a criterion of outputs and targets."""
    return loss if hasattr(loss, "owned") else Supervised(loss)


def stepped(state: TrainState, batches: Any, budget: Any, policy: str, lr: float) -> list[Update]:
    """The updates of a training by `train` itself."""
    return [event for event in train(state, batches, budget, preset(policy, lr)) if isinstance(event, Update)]


def pairs(x: Any, y: Any, size: int) -> list[Any]:
    """A list of batches."""
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def dicts(x: Any, y: Any, size: int) -> list[Any]:
    """A list of batches that are dictionaries."""
    return [{"x": a, "y": b} for a, b in pairs(x, y, size)]


def nested(x: Any, y: Any, size: int) -> list[Any]:
    """A list of batches of tensors, words and None in dictionaries, lists and tuples."""
    return [{"in": [{"x": a}, None], "about": ("words", {"y": b})} for a, b in pairs(x, y, size)]


def named(x: Any, y: Any, size: int) -> list[Any]:
    """A list of batches that are named tuples."""
    return [Pair(a, b) for a, b in pairs(x, y, size)]


def weighed(x: Any, y: Any, size: int) -> list[Any]:
    """A list of batches of three."""
    return [(a, b, torch.ones(len(a))) for a, b in pairs(x, y, size)]


def stacked(samples: Any) -> Any:
    """A batch, as a list."""
    return [torch.stack(part) for part in zip(*samples, strict=True)]


def halves(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups with settings of their own."""
    first, *rest = model.parameters()
    return [{"params": [first], "lr": 0.02, "weight_decay": 0.1}, {"params": rest}]


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric of the user's own: the mean size of the outputs."""
    return outputs.abs().mean()


def traced(model: nn.Module) -> Any:
    """The model within torch.compile, which leaves it to Python."""
    return torch.compile(model, backend="eager")


def doubled(thing: Any) -> Any:
    """A tensor, a module or a criterion in float64."""
    if isinstance(thing, Tensor):
        return thing.double() if thing.is_floating_point() else thing
    if isinstance(thing, partial):
        return partial(thing.func, **{name: doubled(value) for name, value in thing.keywords.items()})
    return thing.double() if isinstance(thing, nn.Module) else thing
