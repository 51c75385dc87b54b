"""Trainings drawn at random, as short scripts: the very lines that a user would write.

`draw` makes the case of a seed, of what lies in fuzz_parts.py; fuzzing.py trains it and says what came of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple


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
        "nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(2, 6), nn.SiLU())",
        "nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(inplace=True))",
        "nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 6), nn.BatchNorm1d(6).eval(), nn.AlphaDropout(0.2))",
        "nn.Sequential(nn.Linear(5, 6).requires_grad_(False), nn.RMSNorm(6), nn.Linear(6, 6))",
        "nn.Sequential(Attention(), nn.Linear(6, 6))",
        "nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (2, 6)), nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, "
        "batch_first=True), nn.Flatten(), nn.Linear(12, 6))",
        "Bare()",
        "nn.utils.parametrizations.orthogonal(nn.Linear(5, 6))",
    ],
    "sequences": [
        "Last()",
        "nn.Sequential(nn.Flatten(), nn.Linear(20, 6))",
        "nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 2, 3), nn.InstanceNorm1d(2, affine=True), nn.Flatten())",
        "nn.Sequential(nn.TransformerEncoderLayer(5, 1, 7, batch_first=True, norm_first=True), nn.Flatten(), "
        "nn.Linear(20, 6))",
    ],
    "images": [
        "nn.Sequential(nn.Conv2d(2, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6))",
        "nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(3, 6))",
        "nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.InstanceNorm2d(4, track_running_stats=True), "
        "nn.Dropout2d(0.2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 6))",
        "nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.GroupNorm(3, 3), nn.AdaptiveMaxPool2d((1, 2)), nn.Flatten())",
        "nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(6))",
    ],
    "words": [
        "nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 6))",
        "nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 6))",
        "nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Flatten(), nn.Linear(12, 6))",
        "nn.EmbeddingBag(7, 6)",
        "nn.EmbeddingBag(7, 6, mode='max')",
        "nn.Sequential(nn.Embedding(7, 3, scale_grad_by_freq=True), nn.LSTM(3, 6, batch_first=True), Picked())",
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
        "Focal()",
        "nn.MultiMarginLoss(p=2, margin=0.5)",
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
        "nn.SmoothL1Loss(beta=0.2)",
        "'smooth_l1'",
        "lambda outputs, targets: F.mse_loss(outputs.flatten(), targets.flatten()) + outputs.abs().mean()",
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
        "nn.HingeEmbeddingLoss()", "nn.MultiLabelMarginLoss()", "nn.CosineEmbeddingLoss()", "nn.CTCLoss()",
        "nn.KLDivLoss(reduction='batchmean', log_target=True)", "nn.PoissonNLLLoss(log_input=False)",
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
    "DataLoader(Sized(x, y), b, drop_last=True)",
    "DataLoader(TensorDataset(x, y), b, collate_fn=stacked)",
    "DataLoader(TensorDataset(x, y), b, shuffle=True, generator=torch.Generator().manual_seed(3))",
    "DataLoader(TensorDataset(x, y), b, sampler=WeightedRandomSampler(torch.ones(n), n))",
    "DataLoader(list(zip(x, y)), b)",
    "Anew(pairs(x, y, b))",
    "iter(pairs(x, y, b) * 9)",
]
OF_ONES_OWN = ["dicts", "nested", "named", "weighed"]
"""Structures of batches for a loss ``fn(model, batch)``."""
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
    "torch.optim.NAdam",
    "torch.optim.Adamax(model.parameters(), lr=0.01, weight_decay=0.1)",
    "torch.optim.Adadelta",
    "torch.optim.ASGD",
    "torch.optim.Rprop(model.parameters(), lr=0.01)",
    "torch.optim.Adafactor(model.parameters(), lr=0.01)",
    "torch.optim.RMSprop(halves(model), lr=0.01, momentum=0.5, centered=True)",
    "torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True, weight_decay=0.1)",
    "torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01), fused=True)",
    "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)",
    "torch.optim.Muon([p for p in model.parameters() if p.ndim == 2], lr=0.01)",
    "torch.optim.SparseAdam(model.parameters())",
    "torch.optim.LBFGS",
    "torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)",
]
MAGNIFYING = ("Rprop", "amsgrad", "Adamax", "Adafactor")
"""They make large steps of gradients that are nothing but rounding, as of biases before a norm, in any precision."""
USUAL = 27
"""So many of them go with most models."""

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
OFF = ("smoothing=0.0", "standardise=False", "norm_statistics='running'")
EXTRAS = [
    "smoothing=None", "smoothing=0.2", "class_weights='balanced'", "class_weights='balanced', smoothing=0.1",
    "average=0.9", "average=0.5, evaluate_every=2", "keep_best='loss'", "keep_best='loss', evaluate_every=1",
    "evaluate_every=2", "norm_statistics='estimated'", "norm_statistics='estimated', average=0.6", "standardise=True",
    "standardise=True, smoothing=None, norm_statistics='estimated'", "keep_best='loss', average=0.7",
]  # fmt: skip
"""Options that are off in the other cases."""
METRICS = {
    "whole": ["None", "'accuracy'", "['balanced_accuracy', spread]", "'top2'", "'f1'", "MulticlassAccuracy(3)"],
    "binary": ["None", "'accuracy'", "'f1'"],
    "numbers": ["None", "['r2', 'mae']", "'rmse'", "[spread]"],
    "own": ["None", "[]", "[spread]"],
}


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
    extras: str = ""
    double: bool = False

    def in_double(self) -> Case:
        """The same numbers in float64, where rounding decides nothing."""
        options = [option for option in self.options.split(", ") if "precision" not in option]
        data = "(x, y)" if "numpy" in self.data else self.data  # arrays of float64 become float32
        return replace(self, double=True, data=data, options=", ".join(options))

    def given(self) -> str:
        """The lines before the learner."""
        lines = [f"torch.manual_seed({self.seed})", f"n, b = {self.n}, {self.b}", f"x = {self.x}", f"y = {self.y}"]
        lines += ["x, y = doubled(x), doubled(y)"] if self.double else []
        lines += [f"model = {self.model}", "model = doubled(model)" if self.double else "", self.modes]
        lines += [f"loss = {self.loss}", "loss = doubled(loss)" if self.double else "", f"data = {self.data}"]
        lines += [f"valid = {self.valid}", f"metrics = {self.metrics}", f"optimizer = {self.optimizer}"]
        return "\n".join(line for line in lines if line)

    def learner(self) -> str:
        """The line that makes the learner."""
        words = "loss=loss, metrics=metrics, optimizer=optimizer, batch_size=b, verbose=False"
        off = [text for text in OFF if text.partition("=")[0] not in self.extras]
        words = ", ".join(filter(None, [words, *off, self.options, self.extras]))
        return f"learn = Learner(model, data, valid, {words})"

    def state(self) -> str:
        """The lines that make the state of a training by `train`."""
        options = f", {self.options}" if self.options else ""
        words = f"model, optimizer, as_loss(loss), norm_statistics='running'{options}"
        return f"state = TrainState({words})\nbatches = as_batches(data, b)"

    def script(self) -> str:
        """All of it, to be run in a checkout."""
        head = "import sys\n\nsys.path[:0] = ['src', 'tests']\nfrom fuzz_parts import *\n"
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
        data, valid = f"{r.choice(OF_ONES_OWN)}(x, y, b)", "None"
    if loss == "None":  # which a first batch of random samples would decide
        data = data.replace("sampler=WeightedRandomSampler(torch.ones(n), n)", "shuffle=True")
    structure = data.partition("(")[0]
    if structure in OF_ONES_OWN or r.random() < 0.02:
        model = f"Wrapped({model}, {r.choice(['tuple', 'dict'])!r})"
    if ("double" in x) != (r.random() < 0.03):
        model += ".double()"
    elif x.startswith("torch.randn") and r.random() < 0.06:
        narrow = r.choice([".bfloat16()", ".half()"])
        x, model = x + narrow, model + narrow
    elif r.random() < 0.006:
        model = f"traced({model})"
    test = f"{structure if structure in OF_ONES_OWN else 'pairs'}(x, y, {r.choice(['3', '3', '1', 'n'])})"
    if name.startswith("classes") and loss in ("None", "nn.CrossEntropyLoss()", "'nll'") and r.random() < 0.3:
        test = "pairs(x, y.long().masked_fill(y == 0, -100), 4)"
    plain_parts = model.startswith("nn.Sequential") and "double" not in model and "Lazy" not in model
    modes = r.choice(MODES if plain_parts else MODES[:2]) if r.random() < 0.3 else ""
    optimizer, fit = _optimizer_and_fit(r, model, data)
    options = r.choice(OPTIONS)
    case = Case(
        seed, r.choice([3, 5, 8, 9, 16, 17, 24, 25]), r.choice([1, 2, 3, 4, 4, 8, 8, 16]), x, kind.targets, model,
        modes, loss, data, optimizer, options, _metrics(r, name, loss), valid,
        "learn.freeze()" if r.random() < 0.1 else "", fit, test,
    )  # fmt: skip
    if r.random() < 0.3:
        return _with_extras(r, case)
    ready = "parameters()" in optimizer or "halves" in optimizer
    named = loss == "None" or loss.startswith("'") or "double" in model or "Lazy" in model or fits is not kind
    if ready and not named and "numpy" not in data and r.random() < 0.4:
        options = case.options if case.options.startswith(("acc", "clip")) and "decay" not in case.options else ""
        return replace(case, by="train", options=options, metrics="None", valid="None", freeze="")
    return case


def _with_extras(r: random.Random, case: Case) -> Case:
    """The case with more options, mostly such as mean something for it."""
    extras = r.choice(EXTRAS)
    if "smoothing" in extras or "class_weights" in extras:
        case = replace(case, loss=case.loss if r.random() < 0.1 else "None")
    if "evaluate" in extras or "keep" in extras:
        case = replace(case, valid=r.choice(["(x, y)", "DataLoader(TensorDataset(x, y), 3)"]))
    if "estimated" in extras and "own(" in case.loss:  # which are called as in training
        extras = "average=0.9"
    if "standardise" in extras and case.data.partition("(")[0] in OF_ONES_OWN:
        extras = "average=0.7"
    if "keep" in extras and "(" in case.data.partition("(")[0]:
        extras = "average=0.8"
    if "standardise" in extras:
        x = f"{case.x} * torch.tensor([0.001, 1.0, 30.0, 1.0, 5.0]) + 2" if case.x == "torch.randn(n, 5)" else case.x
        y = f"{case.y} * 500 + 100" if case.y.startswith("torch.randn") and "half" not in case.y else case.y
        y = case.y if "softmax" in y else y
        case = replace(case, x=x, y=y, data=r.choice(["(x, y)", "(x, y)", case.data]))
    return replace(case, extras=extras)


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


def _optimizer_and_fit(r: random.Random, model: str, data: str) -> tuple[str, str]:
    """An optimizer, and the arguments of a fit: budget, policy and peak."""
    optimizer = r.choice(OPTIMIZERS[:USUAL] if r.random() < 0.92 else OPTIMIZERS[USUAL:])
    if "sparse=True" in model and r.random() < 0.8:
        optimizer = "torch.optim.SGD(model.parameters(), lr=0.1)"
    lr = 0.01 if any(word in optimizer.lower() for word in ("ada", "muon", "rms")) else 0.1
    if any(name in optimizer for name in MAGNIFYING) and any(word in model for word in ("Norm", "Att", "Transf")):
        optimizer = "torch.optim.SGD"
    budget = r.choice(["1", "2", "3", "'1 update'", "'2 updates'", "'5 updates'"])
    if any(word in data for word in ("iter", "Stream", "Anew")):  # whose length is not known
        budget = r.choice(["'1 update'", "'3 updates'"])
    return optimizer, f"{budget}, {r.choice(['constant', 'one_cycle'])!r}, {lr}"
