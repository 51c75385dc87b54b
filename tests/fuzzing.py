"""Trainings drawn at random, held against a plain torch loop over the same batches.

A case (fuzz_cases.py) is trained twice, by a `Learner` and by `plain`. What may come of it is equality to rounding, or
a `OneCycleError` before the first update.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, NamedTuple

import fuzz_cases
import numpy as np
import torch
from fuzz_cases import Case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from onecycle import OneCycleError, Update, evaluate
from onecycle.data.seeds import derive_seed
from onecycle.errors import NonFiniteLoss
from onecycle.optim.build import build_optimizer


def default_of(outputs: Any, targets: Tensor) -> Any:
    """The loss that the documentation promises for such outputs and such targets of the whole data; None: no one."""
    whole, kept = not targets.is_floating_point(), targets[targets != -100]
    same = outputs.shape == targets.shape or outputs.shape == (*targets.shape, 1)
    for axis in (outputs.ndim - 1, 1):
        classes = outputs.shape[axis] if outputs.ndim > 1 else 1
        if whole and classes > 1 and outputs.ndim > 1 and outputs.select(axis, 0).shape == targets.shape:
            there = not kept.numel() or (int(kept.min()) >= 0 and int(kept.max()) < classes)
            return partial(last_axis if axis == outputs.ndim - 1 else F.cross_entropy) if there else None
    columns = same and outputs.ndim == 2 and outputs.shape[1] > 1 and bool((targets >= 0).all())
    if columns and bool(((targets.double().sum(1) - 1).abs() < 1e-3).all()):
        return F.cross_entropy
    if same and bool(((targets == 0) | (targets == 1)).all()):
        return F.binary_cross_entropy_with_logits
    return F.mse_loss if same and not whole else None


def last_axis(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the classes along the last axis."""
    return F.cross_entropy(outputs.movedim(-1, 1), targets)


NAMED = {
    "cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits, "poisson": F.poisson_nll_loss,
}  # fmt: skip
CLASSES = ("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss", "MultiMarginLoss", "last_axis")
FREE = ("Scaled", "plain_criterion", "MultiLabelMarginLoss", "owned")


def name_of(criterion: Any) -> str:
    """The name of the function or class of a criterion."""
    while isinstance(criterion, partial):
        criterion = criterion.func
    return "owned" if hasattr(criterion, "owned") else getattr(criterion, "__name__", type(criterion).__name__)


def is_classes(criterion: Any) -> bool:
    """Whether a criterion takes whole targets, or distributions."""
    return name_of(criterion) in CLASSES


def shaped(criterion: Any, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of one shape, in types that torch takes: what torch would broadcast has no meaning."""
    if name_of(criterion) in FREE:
        return outputs, targets
    if is_classes(criterion):
        soft = targets.shape == outputs.shape
        assert soft or not targets.is_floating_point()
        return outputs, targets.to(outputs.dtype) if soft else targets.long()
    if outputs.numel() == targets.numel() and {outputs.ndim, targets.ndim} == {1, 2}:
        outputs, targets = outputs.flatten(), targets.flatten()
    assert outputs.shape == targets.shape, "not to be broadcast"
    return outputs, targets.to(outputs.dtype)


def whole_loss(criterion: Any, model: nn.Module, batches: Sequence[Any]) -> tuple[Tensor, Any, Any]:
    """The loss over all samples of some batches as if they were one, and their outputs and targets."""
    if name_of(criterion) == "owned":
        parts = [criterion(model, batch) for batch in batches]
        sizes = [len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]) for batch in batches]
        parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        weights = [part[2] if len(part) == 3 else size for part, size in zip(parts, sizes, strict=True)]
        return weighted(parts, weights), None, None
    both = [shaped(criterion, model(x), y) for x, y in batches]
    outputs, targets = (torch.cat(part) for part in zip(*both, strict=True))
    if name_of(criterion) in FREE:
        return weighted([(criterion(*pair),) for pair in both], [len(x) for x, _ in both]), outputs, targets
    loss = criterion(outputs, targets)
    assert loss.ndim == 0
    return loss, outputs, targets


def weighted(parts: Sequence[Any], weights: Sequence[Any]) -> Tensor:
    counted = [(part[0].double(), weight) for part, weight in zip(parts, weights, strict=True) if weight]
    total = sum(weight for _, weight in counted) or float("nan")  # where nothing weighs anything
    return sum(loss * weight for loss, weight in counted or [(parts[0][0], 0)]) / total


def optimizer_of(given: dict[str, Any], options: Mapping[str, Any], criterion: Any) -> torch.optim.Optimizer:
    """The optimizer as the documentation describes it: weight decay on weights, none on biases and norms."""
    optimizer, model = given["optimizer"], given["model"]
    if isinstance(optimizer, torch.optim.Optimizer):
        assert any(p is q for group in optimizer.param_groups for p in group["params"] for q in model.parameters())
        return optimizer
    beside = criterion if isinstance(criterion, nn.Module) else None
    if optimizer == "muon":
        return build_optimizer("muon", model, beside=beside, **options)[0]
    names = ("sgd", "adam", "adamw")
    settings: dict[str, Any] = {"lr": 1.0}
    momentum, decay = options.get("momentum"), options.get("weight_decay")
    if optimizer in names:
        momentum = 0.9 if momentum is None else momentum
        decay = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.05}[optimizer] if decay is None else decay
        settings |= {"nesterov": True} if optimizer == "sgd" else {}
        optimizer = dict(zip(names, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW), strict=True))[optimizer]
    takes = isinstance(optimizer, type) and ("momentum" if "Adam" not in optimizer.__name__ else "betas")
    if momentum is not None:
        settings |= {"momentum": momentum} if takes == "momentum" else {"betas": (momentum, 0.99)}
    if not isinstance(optimizer, type):
        assert momentum is None
        settings = {}
    made = optimizer([{"params": []}], **settings)
    decay = made.defaults["weight_decay"] if decay is None else decay
    every = [*model.parameters(), *(beside.parameters() if beside else ())]
    inner = {id(p) for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("original0")}
    weights, rest = [p for p in every if id(p) in inner], [p for p in every if id(p) not in inner]
    return optimizer([{"params": weights, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}], **settings)


def rate(policy: str, lr: float, k: int, updates: int) -> float:
    """The learning rate of update k."""
    if policy == "constant":
        return lr
    at = k / (updates - 1) if updates > 1 else 0.0
    return float(np.interp(at, [0, 0.45, 0.9, 1], [lr / 10, lr, lr / 10, lr / 1000]))


def training(model: nn.Module) -> None:
    """A model that is in evaluation mode as a whole is trained; parts that are stay so."""
    if not any(module.training for module in model.modules()):
        model.train()
    model.training = True


def plain(model, criterion, optimizer, groups, rates, clip, bf16=False) -> tuple[list[float], list[Any]]:
    """The loop: the losses of the updates, and their metrics."""
    losses, metrics = [], []
    first = [float(group["lr"]) for group in optimizer.param_groups]
    for module in (model, criterion):
        if isinstance(module, nn.Module):
            training(module)
    for k, (batches, lr) in enumerate(zip(groups, rates, strict=True)):
        for group, own_lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * own_lr / max(first)
        torch.manual_seed(derive_seed(0, "update", k))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, outputs, targets = whole_loss(criterion, model, batches)
        loss.backward()
        if len(batches) > 1 and loss.isnan():  # parts that weigh nothing add nothing, where torch would add NaN
            for p in model.parameters():
                p.grad = None if p.grad is None else torch.zeros_like(p)
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
        losses.append(loss.item())
        metrics.append(metrics_of(criterion, outputs, targets))
    return losses, metrics


def measured(model: nn.Module, criterion: Any, batches: Sequence[Any], bf16: bool) -> dict[str, float]:
    """Loss and metrics of all samples, as if they were one batch."""
    for module in (model, criterion):
        if isinstance(module, nn.Module):
            module.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, outputs, targets = whole_loss(criterion, model, batches)
    return {"loss": loss.item(), **metrics_of(criterion, outputs, targets)}


def metrics_of(criterion: Any, outputs: Any, targets: Any) -> dict[str, float]:
    """The metrics that have a name, by formulas over one batch."""
    if outputs is None:
        return {}
    outputs, name = outputs.detach(), name_of(criterion)
    numbers = {"spread": outputs.abs().mean()}
    if is_classes(criterion):
        axis = -1 if name == "last_axis" else 1
        targets = targets.argmax(axis) if targets.shape == outputs.shape else targets
        ignored = getattr(criterion, "ignore_index", getattr(criterion, "keywords", {}).get("ignore_index", -100))
        counted = targets != ignored if name != "MultiMarginLoss" else targets >= 0
        outputs, targets = outputs.movedim(axis, -1)[counted], targets[counted]
        numbers |= {**of_classes(outputs.argmax(-1), targets), "f1": f1(outputs.argmax(-1), targets)}
        numbers["top2"] = (outputs.topk(2).indices == targets[:, None]).any(1).float().mean()
        numbers["multiclassaccuracy"] = f1(outputs.argmax(-1), targets, beta=1000)
    elif "logits" in name or "Logits" in name or name == "MultiLabelSoftMarginLoss":
        predicted, targets = (outputs > 0).long(), (targets > 0.5).long()
        numbers |= of_classes(predicted, targets)
        if outputs.ndim < 2 or outputs.shape[1] == 1:
            numbers["f1"] = f1(predicted, targets, [1])
    elif name not in FREE:
        errors, spreads = (outputs - targets).double(), targets.double() - targets.double().mean(0)
        numbers |= {"mae": errors.abs().mean(), "rmse": errors.square().mean().sqrt()}
        numbers["r2"] = (1 - errors.square().sum(0) / spreads.square().sum(0)).mean()
    return {key: float(value) for key, value in numbers.items()}


def of_classes(predicted: Tensor, targets: Tensor) -> dict[str, Any]:
    """The share that is right, and the mean over the classes there of theirs."""
    right = (predicted == targets).float()
    shares = [right[targets == c].mean() for c in targets.unique()]
    return {"accuracy": right.mean(), "balanced_accuracy": torch.stack(shares).mean() if shares else torch.nan}


def f1(predicted: Tensor, targets: Tensor, classes: Sequence[int] | None = None, beta: float = 1.0) -> float:
    """The mean of F-beta over the classes that are targets or predicted; of a large beta, of the recalls."""
    scores = []
    for c in torch.cat([predicted, targets]).unique().tolist() if classes is None else classes:
        hits, given, there = (int(x.sum()) for x in ((predicted == c) & (targets == c), predicted == c, targets == c))
        scores.append((1 + beta**2) * hits / (given + beta**2 * there) if given + there else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


# One case


class Outcome(NamedTuple):
    """What came of a case, "equal", "diverged", "refused", ... or "fault: ...", and in which words."""

    kind: str
    message: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind.startswith("fault")


ON_PURPOSE = (
    "a batch of one sample", "metrics beside loss=fn", "a metric fails on", "the metric ", "is larger than the data",
    "there are no batches", "The model's weights are", "two classes or more", "along axis 1 or along the last",
    "a loss is the mean of its batch", "all weights of the optimizer are frozen",
    "weight has shape",
)  # fmt: skip
"""What is refused though torch would train it, by its message."""
IN_MEMORY = ("(x", "pairs", "[list", "dicts")
AS_THEY_COME = (*IN_MEMORY[1:], "iter", "DataLoader")


def run(case: Case) -> Outcome:
    """Train a case by the library and by `plain`, and hold them against each other."""
    given = namespace(case)
    before, generator = snapshot(given), torch.get_rng_state()
    trained = Trained()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _train(case, given, trained)
    except OneCycleError as error:
        return refused(case, given, before, trained, error)
    except Exception as error:
        if (name_of(given["loss"]) in FREE or case.by == "train") and torch_refuses(case):
            return Outcome("torch's own error, in a loss or a loop of one's own", str(error))
        return Outcome(f"fault: {type(error).__name__} when {trained.stage}", str(error))
    if not torch.equal(generator, torch.get_rng_state()) and "Lazy" not in case.model:
        return Outcome("fault: the caller's generator was drawn from")
    if names := differing(before, trained.start):
        return Outcome("fault: weights changed before the fit", str(names))
    try:
        expected = reference(case, trained)
    except Exception as error:
        return Outcome("fault: trained what torch refuses", f"{type(error).__name__}: {error}")
    outcome = compared(case, given, trained, *expected)
    if outcome.is_fault and sensitive(expected, reference(case, trained, nudge=1e-6)):
        return Outcome("too sensitive to rounding to be compared", outcome.message)
    return outcome


def sensitive(one: Any, other: Any) -> bool:
    """Whether weights that differ by a millionth at the beginning end a thousand times as far apart."""
    return any(not torch.allclose(one[1][name].double(), t.double(), 1e-3, 1e-4) for name, t in other[1].items())


@dataclass
class Trained:
    """What the library did, so far: its learner, updates, and numbers of an evaluation."""

    stage: str = "building"
    learn: Any = None
    batches: Any = None
    start: dict[str, Tensor] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Any) -> None:
        if isinstance(event, Update):
            self.updates.append(event)


def _train(case: Case, given: dict[str, Any], trained: Trained) -> None:
    if case.by == "train":
        exec(case.state(), given)
        trained.start, trained.batches, trained.stage = snapshot(given), given["batches"], "training"
        trained.updates += eval(f"stepped(state, batches, {case.fit})", given)
        trained.stage = "evaluating"
        trained.numbers = evaluate(given["model"], to_evaluate(case, given), given["state"].loss)
        return
    exec(case.learner(), given)
    learn = trained.learn = given["learn"]
    trained.batches = learn.train
    exec(case.freeze, given)
    trained.start, trained.flags = snapshot(given), flags_of(learn.model) if case.freeze else {}
    trained.stage = "training"
    budget, policy, lr = eval(f"({case.fit})")
    learn.fit(budget, policy, lr, observers=[trained])
    trained.stage = "evaluating"
    trained.numbers = learn.evaluate(to_evaluate(case, given))


def refused(case: Case, given: dict[str, Any], before: Any, trained: Trained, error: OneCycleError) -> Outcome:
    """Whether an error of the library's was in time, and whether torch would have trained."""
    message = f"{type(error).__name__}: {error}"
    if name_of(given["loss"]) in FREE and torch_refuses(case):
        return Outcome("torch's own error, in a loss or a loop of one's own", message)
    one_by_one = not case.data.startswith(IN_MEMORY) or case.by == "train"
    if isinstance(error, NonFiniteLoss):
        (losses, _), *_ = reference(case, trained)
        return Outcome("fault: diverged alone" if np.isfinite(losses[error.step]) else "diverged", message)
    if trained.stage != "building" and one_by_one and ("a batch of one sample" in message or torch_refuses(case)):
        return Outcome("refused late, by data that come batch by batch", message)
    if trained.stage == "evaluating" and "the metric" in message:
        return Outcome("refused by a metric", message)
    if trained.updates:
        return Outcome(f"fault: refused {trained.stage}", message)
    if differing(before, snapshot(given)):
        return Outcome("fault: refused, and the weights have changed", message)
    if torch_refuses(case):
        return Outcome("refused, as by torch", message)
    meant = any(words in message for words in ON_PURPOSE)
    return Outcome("refused on purpose" if meant else "fault: refused what torch trains", message)


def namespace(case: Case) -> dict[str, Any]:
    """The objects that a case's lines make."""
    given = dict(vars(fuzz_cases))
    exec(case.given(), given)
    return given


def as_seen(case: Case, given: Mapping[str, Any]) -> Any:
    """The inputs in the type that the library gives them: float64 arrays as float32, whole data as the model's."""
    x = given["x"]
    if not x.is_floating_point() or not case.data.startswith("(x"):
        return x
    dtypes = [p.dtype for p in given["model"].parameters() if p.is_floating_point() and not is_lazy(p)]
    return (x.float() if "numpy" in case.data else x).to(dtypes[0] if dtypes else x.dtype)


def to_evaluate(case: Case, given: Mapping[str, Any]) -> Any:
    """The batches of the evaluation."""
    return eval(case.test, {**given, "x": as_seen(case, given)})


def snapshot(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights and buffers of model and loss, copied; lazy ones have none."""
    parts = [part for part in (given["model"], given["loss"]) if isinstance(part, nn.Module)]
    return {
        f"{type(part).__name__}.{name}": value.detach().clone()
        for part in parts
        for name, value in (*part.named_parameters(), *part.named_buffers())
        if not is_lazy(value)
    }


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names of what is not the same to the bit in both; what only one has is left out."""
    return [name for name in one if name in other and not torch.equal(one[name], other[name])]


def flags_of(model: nn.Module) -> dict[str, Any]:
    """Modes and frozen parameters, by name."""
    return {
        **{f"mode {name}": module.training for name, module in model.named_modules()},
        **{name: p.requires_grad for name, p in model.named_parameters()},
    }


def criterion_for(case: Case, given: dict[str, Any]) -> Any:
    """The criterion of a case; what the documentation promises where there is none."""
    if given["loss"] is not None:
        return NAMED[given["loss"]] if isinstance(given["loss"], str) else given["loss"]
    model = given["model"]
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        outputs = model.eval()(as_seen(case, given))
    for module, mode in modes:
        module.training = mode
    criterion = default_of(outputs, given["y"])
    assert criterion is not None, "no default loss"
    return criterion


def torch_refuses(case: Case) -> bool:
    """Whether torch fails on one batch of all samples, or gives something else than one number."""
    given = namespace(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            criterion = criterion_for(case, given)
            optimizer = optimizer_of(given, arguments(case)[0], criterion)
            batch = (as_seen(case, given), given["y"])
            if "dicts" in case.data:
                batch = dict(zip("xy", batch, strict=True))
            plain(given["model"], criterion, optimizer, [[batch]], [0.01], arguments(case)[2])
    except Exception:
        return True
    return False


def arguments(case: Case) -> tuple[dict[str, Any], int, float | None]:
    """Options of the optimizer, accumulated batches, and the largest norm."""
    options = eval(f"dict({case.options})")
    options.pop("precision", None)
    return options, options.pop("accumulate", 1), options.pop("clip", None)


def groups_of(case: Case, source: Any, data: Any, budget: Any, accumulate: int) -> list[list[Any]]:
    """The batches of each update: as they come or, where the library batches them, as it says that they do."""
    epochs, limit = (budget, 10**9) if isinstance(budget, int) else (10**9, int(budget.split()[0]))
    as_they_come = case.data.startswith(AS_THEY_COME) and "shuffle" not in case.data
    groups: list[list[Any]] = []
    for epoch in range(epochs):
        batches = list(data if as_they_come else source.epoch(epoch))
        groups += [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
        if len(groups) >= limit or not batches:
            break
    return groups[:limit]


def reference(case: Case, trained: Trained, nudge: float = 0.0) -> tuple[Any, dict[str, Tensor], dict[str, float]]:
    """The losses of the updates, the final state and the numbers of an evaluation, by torch alone."""
    given = namespace(case)
    budget, policy, lr = eval(f"({case.fit})")
    options, accumulate, clip = arguments(case)
    bf16 = "bf16" in case.options
    model = given["model"]
    criterion = criterion_for(case, given)
    if "Lazy" in case.model:  # whatever they were drawn from
        model.load_state_dict({name.partition(".")[2]: value for name, value in trained.start.items()}, strict=False)
    for p in model.parameters() if nudge else ():
        p.data.mul_(1 + nudge * torch.randn(p.shape))
    for name, module in model.named_modules():
        module.training = trained.flags.get(f"mode {name}", module.training)
    for name, p in model.named_parameters():
        p.requires_grad_(trained.flags.get(name, p.requires_grad))
    groups = groups_of(case, trained.batches, given["data"], budget, accumulate)
    rates = [rate(policy, lr, k, len(groups)) for k in range(len(groups))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = plain(model, criterion, optimizer_of(given, options, criterion), groups, rates, clip, bf16)
        final = snapshot(given)
        return losses, final, measured(model, criterion, to_evaluate(case, given), bf16)


def compared(case: Case, given: Any, trained: Trained, training: Any, final: Any, expected: Any) -> Outcome:
    """Equality to rounding, or what differs."""
    rounding = 0.05 if "bf16" in case.options else 2e-3 if "muon" in case.optimizer else 2e-4
    losses, metrics = training
    if len(trained.updates) != len(losses):
        return Outcome("fault: number of updates", f"{len(trained.updates)}, expected {len(losses)}")
    for k, (update, loss) in enumerate(zip(trained.updates, losses, strict=True)):
        if names := unequal({"loss": update.loss, **update.metrics}, {"loss": loss, **metrics[k]}, rounding):
            return Outcome(
                f"fault: {names[0]} of an update", f"update {k}: {update.row}, expected {loss}, {metrics[k]}"
            )
    for name, value in snapshot(given).items():
        if not torch.allclose(value.double(), final[name].double(), rounding, rounding / 10, equal_nan=True):
            return Outcome("fault: final state", f"{name}: {value}, expected {final[name]}")
    if names := unequal(trained.numbers, expected, rounding):
        return Outcome(f"fault: {names[0]} of evaluate", f"{trained.numbers}, expected {expected}")
    by_default = case.metrics == "None" and case.by == "learner"
    if by_default and ("accuracy" in trained.numbers) != ("accuracy" in expected):
        return Outcome("fault: accuracy or none", f"{trained.numbers}, expected {expected}")
    return Outcome("equal")


def unequal(numbers: Mapping[str, float], expected: Mapping[str, float], rounding: float) -> list[str]:
    """The names of numbers that are not as expected; in bfloat16 shares may jump by samples."""
    smooth = [name for name in numbers if name in expected and (rounding < 0.01 or name == "loss")]
    return [n for n in smooth if not np.isclose(numbers[n], expected[n], rounding, rounding / 10, equal_nan=True)]


SIMPLE: dict[str, Sequence[Any]] = {
    "n": (3, 5, 8), "b": (1, 2, 4), "x": ("torch.randn(n, 5)",), "y": ("labels(3, n)",),
    "model": ("nn.Linear(5, 3)", "nn.Linear(5, 1)"), "modes": ("",), "loss": ("None", "nn.CrossEntropyLoss()"),
    "data": ("(x, y)", "pairs(x, y, b)"), "optimizer": ("torch.optim.SGD",), "options": ("", "accumulate=2"),
    "metrics": ("None",), "valid": ("None",), "by": ("learner",), "freeze": ("",), "test": ("pairs(x, y, 3)",),
    "fit": ("'1 update', 'constant', 0.1", "1, 'constant', 0.1"),
}  # fmt: skip


def simplest(case: Case, kind: str) -> Case:
    """The case with each part as simple as it can be while the outcome is of the same kind."""
    for part in fields(case):
        for value in SIMPLE.get(part.name, ()):
            simpler = replace(case, **{part.name: value})
            if simpler == case:
                break
            with suppress(Exception):  # the lines of some do not run
                if run(simpler).kind == kind:
                    case = simpler
                    break
    return case
