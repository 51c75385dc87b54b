"""Trainings drawn at random, as short scripts: the very lines that a user would write.

`draw` makes the case of a seed; tests/fuzzing.py trains it and says what came of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial  # noqa: F401
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset  # noqa: F401
from torchmetrics.classification import MulticlassAccuracy  # noqa: F401

from onecycle import Learner, Supervised, TrainState, Update, as_batches, evaluate, preset, train  # noqa: F401

# What a case may be made of, beside torch


class Stream(IterableDataset):
    """Samples that come one after another."""

    def __init__(self, x: Tensor, y: Tensor):
        self.samples = list(zip(x, y, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)


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
            self.mean = self.mean * 0.9 + 0.1 * x.detach().float().mean(0)
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


def own(criterion: Any, returns: int) -> Any:
    """A loss ``fn(model, batch)`` that returns one thing, two or three."""

    def loss(model: nn.Module, batch: Any) -> Any:
        x, y = batch.values() if isinstance(batch, Mapping) else batch
        out = model(x)
        out = out["out"] if isinstance(out, Mapping) else out[0] if isinstance(out, tuple) else out
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


def halves(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups with settings of their own."""
    first, *rest = model.parameters()
    return [{"params": [first], "lr": 0.02, "weight_decay": 0.1}, {"params": rest}]


# What is drawn from


class Kind(NamedTuple):
    """Targets of one kind: the inputs and outputs that they go with, and the losses that take them."""

    targets: str
    inputs: str = "features"
    head: str = "3"
    losses: str = "none classes own"


TASKS = {
    "classes": Kind("labels(3, n)"),
    "classes of int32": Kind("labels(3, n).int()"),
    "classes of uint8": Kind("labels(3, n).byte()"),
    "classes left out": Kind("some_left_out(labels(3, n))", losses="none classes"),
    "another number left out": Kind("some_left_out(labels(3, n), 7)", losses="ignoring"),
    "columns of classes": Kind("labels(3, n, 1)"),
    "classes of sequences": Kind("labels(3, n)", "sequences"),
    "classes of images": Kind("labels(3, n)", "images"),
    "classes of words": Kind("labels(3, n)", "words"),
    "classes of float": Kind("labels(3, n).float()"),
    "labels out of range": Kind("labels(5, n)"),
    "negative labels": Kind("labels(3, n) - 1"),
    "one-hot": Kind("F.one_hot(labels(3, n), 3)", losses="none soft"),
    "one-hot of float": Kind("F.one_hot(labels(3, n), 3).float()", losses="none soft multi"),
    "soft": Kind("torch.randn(n, 3).softmax(1)", losses="none soft"),
    "tokens": Kind("labels(3, n, 4)", "words", "tokens", "none own-tokens"),
    "tokens left out": Kind("some_left_out(labels(3, n, 4))", "words", "tokens", "none own-weighed"),
    "tokens, axis 1": Kind("some_left_out(labels(3, n, 4))", "words", "tokens 1", "none classes"),
    "states": Kind("labels(3, n, 4)", "sequences", "tokens", "none own-tokens"),
    "segmentation": Kind("labels(3, n, 4, 6)", "images", "pixels", "none classes"),
    "segmentation left out": Kind("some_left_out(labels(3, n, 4, 6), 255)", "images", "pixels", "ignoring-255"),
    "binary": Kind("labels(2, n)", head="1", losses="none logits"),
    "binary of float": Kind("labels(2, n).float()", head="1", losses="none logits numbers"),
    "binary of bool": Kind("labels(2, n).bool()", head="1", losses="none logits"),
    "binary, a column": Kind("labels(2, n, 1).float()", head="1", losses="none logits"),
    "binary, a column of int": Kind("labels(2, n, 1)", head="1", losses="none logits"),
    "binary, flat": Kind("labels(2, n)", head="flat", losses="none logits"),
    "binary, two outputs": Kind("labels(2, n)", head="2"),
    "multi-label": Kind("several(n, 3)", losses="none logits multi own-multi"),
    "multi-label of int": Kind("several(n, 3).long()", losses="none logits multi"),
    "regression": Kind("torch.randn(n)", head="1", losses="none numbers"),
    "regression, flat": Kind("torch.randn(n)", head="flat", losses="none numbers"),
    "regression, a column": Kind("torch.randn(n, 1)", head="1", losses="none numbers own-numbers"),
    "regression, columns": Kind("torch.randn(n, 3)", losses="none numbers own-numbers"),
    "regression of float64": Kind("torch.randn(n, 3).double()", losses="none numbers"),
    "regression of float16": Kind("torch.randn(n, 1).half()", head="1", losses="none numbers"),
    "counts": Kind("labels(9, n)", head="1", losses="numbers counts"),
    "images of images": Kind("torch.randn(n, 3, 4, 6)", "images", "pixels", "none numbers"),
}

INPUTS = {
    "features": ["torch.randn(n, 5)", "torch.randn(n, 5)", "torch.randn(n, 5).double()", "torch.rand(n, 5)"],
    "sequences": ["torch.randn(n, 4, 5)"],
    "images": ["torch.randn(n, 2, 4, 6)"],
    "words": ["torch.randint(0, 7, (n, 4))", "torch.randint(0, 7, (n, 4)).int()"],
}
BODIES = {
    "features": [
        "nn.Linear(5, 6)",
        "nn.Sequential(nn.Linear(5, 6), nn.ReLU())",
        "nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU())",
        "nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, momentum=None, affine=False))",
        "nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU())",
        "nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.3), nn.PReLU())",
        "nn.Sequential(nn.LazyLinear(6), nn.Tanh())",
        "nn.Sequential(nn.LazyLinear(6, bias=False), nn.LazyBatchNorm1d())",
        "nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))",
        "nn.utils.parametrizations.spectral_norm(nn.Linear(5, 6))",
        "nn.Sequential(Tied(), nn.Linear(5, 6))",
        "nn.Sequential(Counting(), nn.Linear(5, 6))",
        "nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten())",
    ],
    "sequences": ["Last()", "nn.Sequential(nn.Flatten(), nn.Linear(20, 6))"],
    "images": [
        "nn.Sequential(nn.Conv2d(2, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6))",
        "nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(3, 6))",
    ],
    "words": [
        "nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 6))",
        "nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 6))",
        "nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Flatten(), nn.Linear(12, 6))",
        "nn.EmbeddingBag(7, 6)",
    ],
}  # each gives [n, 6]
HEADS = {
    "3": ["nn.Linear(6, 3)"],
    "2": ["nn.Linear(6, 2)"],
    "1": ["nn.Linear(6, 1)"],
    "flat": ["nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))"],
}
WHOLE = {
    ("words", "tokens"): ["nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 3))"],
    ("words", "tokens 1"): ["Wrapped(nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 3)), 'axis 1')"],
    ("sequences", "tokens"): ["nn.Sequential(Last(every=True), nn.Linear(6, 3))", "nn.Linear(5, 3)"],
    ("images", "pixels"): [
        "nn.Conv2d(2, 3, 1)",
        "nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))",
    ],
}
LOSSES = {
    "none": ["None"],
    "classes": [
        "nn.CrossEntropyLoss()",
        "nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))",
        "nn.CrossEntropyLoss(ignore_index=2)",
        "nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 5.0, 0.2]))",
        "F.cross_entropy",
        "partial(F.cross_entropy, label_smoothing=0.2, ignore_index=1)",
        "partial(F.cross_entropy, weight=torch.tensor([0.0, 1.0, 2.0]))",
        "'cross_entropy'",
        "nn.NLLLoss()",
        "'nll'",
        "nn.MultiMarginLoss()",
        "Scaled(nn.CrossEntropyLoss())",
    ],
    "ignoring": [
        "nn.CrossEntropyLoss(ignore_index=7)",
        "partial(F.cross_entropy, ignore_index=7, weight=torch.tensor([1.0, 5.0, 0.2]))",
        "nn.NLLLoss(ignore_index=7)",
    ],
    "ignoring-255": ["nn.CrossEntropyLoss(ignore_index=255)"],
    "soft": [
        "nn.CrossEntropyLoss()",
        "nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))",
        "F.cross_entropy",
        "partial(F.cross_entropy, label_smoothing=0.1)",
    ],
    "logits": [
        "nn.BCEWithLogitsLoss()",
        "F.binary_cross_entropy_with_logits",
        "nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))",
        "nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))",
        "'binary_cross_entropy'",
        "Scaled(nn.BCEWithLogitsLoss())",
    ],
    "multi": [
        "nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 5.0, 0.2]))",
        "nn.BCEWithLogitsLoss(weight=torch.tensor([1.0, 5.0, 0.2]))",
        "nn.MultiLabelSoftMarginLoss()",
        "nn.MultiLabelSoftMarginLoss(weight=torch.tensor([1.0, 5.0, 0.2]))",
    ],
    "numbers": [
        "nn.MSELoss()",
        "F.l1_loss",
        "nn.HuberLoss(delta=0.3)",
        "partial(F.smooth_l1_loss, beta=0.5)",
        "'mse'",
        "'mae'",
        "'huber'",
    ],
    "counts": ["nn.PoissonNLLLoss()", "'poisson'"],
    "own": ["plain_criterion", "own(F.cross_entropy, 1)", "own(F.cross_entropy, 2)", "own(F.cross_entropy, 3)"],
    "own-tokens": [f"own(lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), {k})" for k in (1, 3)],
    "own-weighed": ["own(lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), 3)"],
    "own-multi": [f"own(F.binary_cross_entropy_with_logits, {k})" for k in (1, 2)],
    "own-numbers": [f"own(F.mse_loss, {k})" for k in (1, 2)],
    "odd": [
        "nn.GaussianNLLLoss()", "nn.KLDivLoss(reduction='batchmean')", "nn.MSELoss(reduction='sum')", "nn.BCELoss()",
        "nn.CrossEntropyLoss(reduction='none')", "nn.CrossEntropyLoss", "nn.SoftMarginLoss()", "nn.TripletMarginLoss()",
        "nn.HingeEmbeddingLoss()", "nn.MultiLabelMarginLoss()",
    ],
}  # fmt: skip
DATA = [
    "(x, y)",
    "(x.numpy(), y.numpy())",
    "DataLoader(TensorDataset(x, y), b)",
    "DataLoader(TensorDataset(x, y), b, shuffle=True)",
    "DataLoader(TensorDataset(x, y), b, drop_last=True)",
    "DataLoader(Samples(x, y), batch_sampler=[range(min(b, n)), range(n)])",
    "TensorDataset(x, y)",
    "Samples(x, y)",
    "pairs(x, y, b)",
    "[list(pair) for pair in pairs(x, y, b)]",
    "Stream(x, y)",
    "DataLoader(Stream(x, y), b)",
    "iter(pairs(x, y, b) * 9)",
]
OPTIMIZERS = [
    "'sgd'",
    "torch.optim.SGD",
    "'adam'",
    "'adamw'",
    "'muon'",
    "torch.optim.AdamW",
    "torch.optim.RMSprop",
    "lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.8, weight_decay=0.01)",
    "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.02)",
    "torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)",
    "torch.optim.SGD(halves(model), lr=0.1, momentum=0.5)",
    "torch.optim.AdamW(halves(model), lr=0.01)",
    "torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1)",
    "torch.optim.Adagrad",
    "torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1), foreach=False)",
    "torch.optim.RAdam(halves(model), lr=0.01)",
    "torch.optim.SparseAdam(model.parameters())",
    "torch.optim.LBFGS",
    "torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)",
]
USUAL = 15
"""So many of them go with most models."""

PLAIN = [text for text in OPTIMIZERS if "sgd" in text.lower() and "nn.Linear" not in text]
MODES = [
    "",
    "model.eval()",
    "model[0].eval()",
    "model[0].requires_grad_(False)",
    "model[0].eval().requires_grad_(False)",
    "model.eval(); model[-1].train()",
    "model.requires_grad_(False)",
]
OPTIONS = [
    "", "", "accumulate=2", "accumulate=3", "clip=0.1", "weight_decay=0.1", "momentum=0.5", "accumulate=2, clip=0.05",
    "accumulate=3, weight_decay=0.0", "precision='bf16'", "precision='bf16', accumulate=2",
]  # fmt: skip
METRICS = {
    "whole": ["None", "'accuracy'", "['balanced_accuracy', spread]", "'top2'", "'f1'", "MulticlassAccuracy(3)"],
    "binary": ["None", "'accuracy'", "'f1'"],
    "numbers": ["None", "['r2', 'mae']", "'rmse'", "[spread]"],
    "own": ["None", "[]", "[spread]"],
}


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric of the user's own: the mean size of the outputs."""
    return outputs.abs().mean()


@dataclass(frozen=True)
class Case:
    """The lines of a training, each a value of its own so that it can be simplified."""

    seed: int
    n: int
    b: int
    x: str
    y: str
    model: str
    modes: str
    loss: str
    data: str
    optimizer: str
    options: str
    metrics: str
    valid: str
    freeze: str
    fit: str
    test: str
    by: str = "learner"

    def given(self) -> str:
        """The lines before the learner."""
        lines = [f"torch.manual_seed({self.seed})", f"n, b = {self.n}, {self.b}", f"x = {self.x}", f"y = {self.y}"]
        lines += [f"model = {self.model}", self.modes, f"loss = {self.loss}", f"data = {self.data}"]
        lines += [f"valid = {self.valid}", f"metrics = {self.metrics}", f"optimizer = {self.optimizer}"]
        return "\n".join(line for line in lines if line)

    def learner(self) -> str:
        """The line that makes the learner."""
        options = f", {self.options}" if self.options else ""
        words = "loss=loss, metrics=metrics, optimizer=optimizer, batch_size=b, verbose=False, smoothing=0.0"
        words += ", standardise=False, norm_statistics='running'"
        return f"learn = Learner(model, data, valid, {words}{options})"

    def state(self) -> str:
        """The lines that make the state of a training by `train`."""
        options = f", {self.options}" if self.options else ""
        words = f"model, optimizer, as_loss(loss), norm_statistics='running'{options}"
        return f"state = TrainState({words})\nbatches = as_batches(data, b)"

    def script(self) -> str:
        """All of it, to be run in a checkout."""
        head = "import sys\n\nsys.path[:0] = ['src', 'tests']\nfrom fuzz_cases import *\n"
        lines = [self.learner(), self.freeze, f"learn.fit({self.fit})", f"print(learn.evaluate({self.test}))"]
        if self.by == "train":
            fit = f"print(stepped(state, batches, {self.fit}))"
            lines = [self.state(), fit, f"print(evaluate(model, {self.test}, state.loss))"]
        lines = [head, self.given(), *lines]
        return "\n".join(line for line in lines if line)


def draw(seed: int) -> Case:
    """The case of a seed: mostly such as a user might write, and now and then with a part that does not fit."""
    r = random.Random(seed)
    name = r.choice(list(TASKS))
    kind = TASKS[name]
    loss = r.choice(LOSSES[r.choice(kind.losses.split() if r.random() < 0.93 else list(LOSSES))])
    fits = kind if r.random() < 0.94 else TASKS[r.choice(list(TASKS))]  # what the model is made for
    x, model = _model(r, fits, loss)
    data, valid = r.choice(DATA), r.choice(["None", "None", "(x, y)", "DataLoader(TensorDataset(x, y), 3)"])
    if "own(" in loss and r.random() < 0.4:
        data, valid = "dicts(x, y, b)", "None"
    if "dicts" in data or r.random() < 0.02:
        model = f"Wrapped({model}, {r.choice(['tuple', 'dict'])!r})"
    if ("double" in x) != (r.random() < 0.03):
        model += ".double()"
    test = f"{'dicts' if 'dicts' in data else 'pairs'}(x, y, 3)"
    if name.startswith("classes") and loss in ("None", "nn.CrossEntropyLoss()", "'nll'") and r.random() < 0.3:
        test = "pairs(x, y.long().masked_fill(y == 0, -100), 4)"
    plain_parts = model.startswith("nn.Sequential") and "double" not in model and "Lazy" not in model
    modes = r.choice(MODES if plain_parts else MODES[:2]) if r.random() < 0.3 else ""
    optimizer, fit = _optimizer_and_fit(r, model, data)
    if fits is not kind or "BatchNorm1d" in model:  # gradients may be nothing but rounding, which others magnify
        optimizer, fit = _optimizer_and_fit(r, model, data, PLAIN)
    options = r.choice(OPTIONS)
    if "bf16" in options and "SGD" not in optimizer:  # the others magnify what it rounds
        options = ""
    case = Case(
        seed, r.choice([3, 5, 8, 9, 16, 17, 24, 25]), r.choice([1, 2, 3, 4, 4, 8, 8, 16]), x, kind.targets, model,
        modes, loss, data, optimizer, options, _metrics(r, name, loss), valid,
        "learn.freeze()" if r.random() < 0.1 else "", fit, test,
    )  # fmt: skip
    ready = "parameters()" in optimizer or "halves" in optimizer
    named = loss == "None" or loss.startswith("'") or "double" in model or "Lazy" in model or fits is not kind
    if ready and not named and "numpy" not in data and r.random() < 0.4:
        options = case.options if case.options.startswith(("acc", "clip")) and "decay" not in case.options else ""
        return replace(case, by="train", options=options, metrics="None", valid="None", freeze="")
    return case


def _model(r: random.Random, kind: Kind, loss: str) -> tuple[str, str]:
    """Inputs, and a model of them for such targets and such a loss."""
    x = r.choice(INPUTS[kind.inputs])
    if (kind.inputs, kind.head) in WHOLE:
        model = r.choice(WHOLE[kind.inputs, kind.head])
    else:
        model = f"nn.Sequential({r.choice(BODIES[kind.inputs])}, {r.choice(HEADS.get(kind.head, HEADS['3']))})"
    if "nll" in loss.lower() and model.startswith("nn.Sequential"):
        return x, f"nn.Sequential(*{model}, nn.LogSoftmax(1))"
    return x, f"nn.Sequential({model}, nn.Sigmoid())" if loss == "nn.BCELoss()" else model


def _metrics(r: random.Random, name: str, loss: str) -> str:
    """Metrics that go with a task of such a name, mostly."""
    suit = "numbers" if "regression" in name or name in ("counts", "images of images") else "whole"
    suit = "binary" if "binary" in name or "multi" in name else suit
    if "own(" in loss or loss == "plain_criterion" or r.random() < 0.4:
        suit = "own"
    return r.choice(METRICS[r.choice(list(METRICS)) if r.random() < 0.03 else suit])


def _optimizer_and_fit(
    r: random.Random, model: str, data: str, among: Sequence[str] = OPTIMIZERS[:USUAL]
) -> tuple[str, str]:
    """An optimizer, and the arguments of a fit: budget, policy and peak."""
    optimizer = r.choice(among if r.random() < 0.92 else OPTIMIZERS[USUAL:])
    if "sparse=True" in model and r.random() < 0.8:
        optimizer = "torch.optim.SGD(model.parameters(), lr=0.1)"
    lr = 0.01 if any(word in optimizer.lower() for word in ("ada", "muon", "rms")) else 0.1
    budget = r.choice(["1", "2", "3", "'1 update'", "'2 updates'", "'5 updates'"])
    if "iter" in data or "Stream" in data:  # whose length is not known
        budget = r.choice(["'1 update'", "'3 updates'"])
    return optimizer, f"{budget}, {r.choice(['constant', 'one_cycle'])!r}, {lr}"
