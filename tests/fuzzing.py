"""Trainings drawn at random, held against a plain torch loop over the same batches.

A case (fuzz_cases.py) is trained twice, by a `Learner` and by `plain`. What may come of it is equality to rounding, or
a `OneCycleError` before the first update.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, NamedTuple

import fuzz_parts
import numpy as np
import torch
from fuzz_cases import OF_ONES_OWN, Case
from fuzz_parts import pairs
from fuzz_plain import (
    FREE,
    NAMED,
    InUnits,
    Noise,
    Watching,
    default_of,
    estimate,
    even_weights,
    freeze,
    is_classes,
    measured,
    name_of,
    optimizer_of,
    plain,
    predicted,
    rate,
    scale_of,
    spatial,
)  # fmt: skip
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onecycle import EpochEnd, OneCycleError, TrainState, Update, evaluate, preset, train
from onecycle.errors import NonFiniteLoss


class Outcome(NamedTuple):
    """What came of a case, "equal", "diverged", "refused", ... or "fault: ...", and in which words."""

    kind: str
    message: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind.startswith("fault")


ON_PURPOSE = (
    "a batch of one sample", "metrics beside loss=fn", " fails on the model's outputs", "the metric ",
    "is larger than the data", "there are no batches", "The model's weights are", "two classes or more",
    "along axis 1 or along the last", "a loss is the mean of its batch", "all weights of the optimizer are frozen",
    "class_weights", "smoothing is for", "keep_best", "weight has shape", "Expected more than 1 value per channel",
)  # fmt: skip
"""What is refused though torch would train it, by its message."""
IN_MEMORY = ("(x", "pairs", "[list", *OF_ONES_OWN)
AS_THEY_COME = (*IN_MEMORY[1:], "iter", "DataLoader", "Anew")


def run(case: Case) -> Outcome:
    """Train a case by the library and by `plain`, and hold them against each other."""
    try:
        given = namespace(case)
    except Exception as error:
        return Outcome("torch's own error, in the lines before", f"{type(error).__name__}: {error}")
    before, generator = snapshot(given), torch.get_rng_state()
    trained = Trained()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for of_torch in ("Sparse invariant checks", "Mismatch dtype between input and weight"):
                warnings.filterwarnings("ignore", of_torch)
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
    outcome = compared(case, given, trained, expected)
    if outcome.is_fault:
        return rounded(case, given, trained, expected, outcome)
    return interrupted(case) if case.seed % 5 == 0 and "iter" not in case.data else outcome


def interrupted(case: Case) -> Outcome:
    """Whether a training that is broken off, saved, read into other objects and gone on with has the same bits."""
    whole, (first, second) = training_of(case), (training_of(case) for _ in range(2))
    every = list(updates_of(case, whole))
    for k, _ in enumerate(updates_of(case, first)):
        if 2 * k + 1 >= len(every):
            break
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    second.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    rest = list(updates_of(case, second))
    losses = [update.loss for update in every]
    after = [update.loss for update in rest]
    if not np.array_equal(after, losses[k + 1 :], equal_nan=True):
        return Outcome("fault: losses after an interruption", f"{losses}, then {after}")
    one, other = (state.state_dict() for state in (whole, second))
    for part in ("model", "averages"):
        for name, value in (one[part] or {}).items():
            if not torch.equal(value.nan_to_num(), other[part][name].nan_to_num()):
                return Outcome("fault: state after an interruption", f"{part}: {name}")
    return Outcome("equal")


def training_of(case: Case) -> TrainState:
    """The state of a case that is to be trained; its data are kept with it."""
    given = namespace(case)
    exec(case.state() if case.by == "train" else f"{case.learner()}\n{case.freeze}", given)
    state = given["state"] if case.by == "train" else given["learn"].state
    state.source = given["batches"] if case.by == "train" else given["learn"].train
    return state


def updates_of(case: Case, state: Any) -> Iterator[Update]:
    """The updates of a training, from where its state is."""
    budget, policy, lr = eval(f"({case.fit})")
    return (event for event in train(state, state.source, budget, preset(policy, lr)) if isinstance(event, Update))


ROUNDING = {"fp32": 2e-5, "bf16": 2e-4, "fp64": 1e-6, "bfloat16": 1e-2, "half": 1e-3}
"""How far numbers may be apart, relatively, without a look at where that comes from."""
ULPS = {"fp64": 2.0**-52, "fp32": 2.0**-23, "bf16": 2.0**-8, "bfloat16": 2.0**-8, "half": 2.0**-11}
"""The distance of 1 from its neighbour."""


def precision(case: Case) -> str:
    """In which a case is computed: its weights, or what autocast makes of them."""
    of_model = next((name for name in ("bfloat16", "half") if f".{name}()" in case.model), "fp32")
    return "fp64" if case.double else "bf16" if "bf16" in case.options else of_model


def rounded(case: Case, given: Any, trained: Trained, expected: Expected, outcome: Outcome) -> Outcome:
    """Whether a difference is rounding: equal in float64, and no larger than what an ulp at the beginning makes.

    The loss of the first update has to be equal in any precision. Where the loop of torch ends further apart by itself
    than library and loop do, float64 decides the rest; there nothing may be further apart than a thousandth.
    """
    first, ulp = expected.losses[0], ULPS[precision(case)]
    near = {"fp64": 1e-6, "fp32": 2e-5, "bf16": 2e-5}.get(precision(case), 4 * ulp)
    if not np.isclose(trained.updates[0].loss, first, near, near, equal_nan=True):
        return Outcome(outcome.kind, f"the first loss is {trained.updates[0].loss}, expected {first}")
    if not case.double and not (twin := run(case.in_double())).kind.startswith("equal"):
        return Outcome(outcome.kind, f"{outcome.message}; in float64: {twin}")
    apart = distance((snapshot(given), trained.numbers), expected)
    nudged = [reference(case, trained, nudge=ulp, draw=draw) for draw in range(4)]
    spread = max(distance((one.state, one.numbers), expected) for one in nudged)
    message = f"{apart:.1e} beside {spread:.1e}: {outcome.message}"
    if apart > 4 * spread or (case.double and apart > 1e-3):
        return Outcome(outcome.kind, message)
    return Outcome("equal, and apart by rounding" if case.double else "equal in float64, apart by rounding", message)


def distance(one: Any, other: Expected) -> float:
    """How far final states and losses of an evaluation are apart at most, relative to their size or to a tenth."""
    state, numbers = one
    pairs = [(state[name], value) for name, value in other.state.items() if name in state]
    pairs += [(torch.tensor(numbers["loss"]), torch.tensor(other.numbers["loss"]))]
    apart = [(a - b).abs() / (b.abs() + 0.1) for a, b in pairs if a.numel()]
    return max(float(one.where(one.isfinite(), torch.inf).max()) for one in apart)


@dataclass
class Trained:
    """What the library did, so far: its learner, updates, and numbers of an evaluation."""

    stage: str = "building"
    learn: Any = None
    batches: Any = None
    start: dict[str, Tensor] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    valid: dict[int, dict[str, float]] = field(default_factory=dict)
    predictions: Any = None

    def __call__(self, event: Any) -> None:
        if isinstance(event, Update):
            self.updates.append(event)
        if event.valid is not None:
            self.valid[event.step if isinstance(event, EpochEnd) else event.step + 1] = event.valid


@dataclass
class Expected:
    """What plain torch came to: by update, in validation, at the end, and in an evaluation of other batches."""

    losses: list[float]
    metrics: list[dict[str, float]]
    valid: dict[int, dict[str, float]]
    state: dict[str, Tensor]
    numbers: dict[str, float]
    predictions: Any


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
    trained.start, trained.stage = snapshot(given), "training"
    budget, policy, lr = eval(f"({case.fit})")
    learn.fit(budget, policy, lr, observers=[trained])
    trained.stage = "evaluating"
    trained.numbers = learn.evaluate(eval(case.test, {**given, "x": typed(case, given)}))
    if case.data.partition("(")[0] not in OF_ONES_OWN:
        trained.predictions = learn.predict(given["x"].numpy() if "numpy" in case.data else typed(case, given))


def refused(case: Case, given: dict[str, Any], before: Any, trained: Trained, error: OneCycleError) -> Outcome:
    """Whether an error of the library's was in time, and whether torch would have trained."""
    message = f"{type(error).__name__}: {error}"
    if name_of(given["loss"]) in FREE and torch_refuses(case):
        return Outcome("torch's own error, in a loss or a loop of one's own", message)
    one_by_one = not case.data.startswith(IN_MEMORY) or case.by == "train"
    if isinstance(error, NonFiniteLoss):
        try:
            losses = reference(case, trained).losses
        except Exception as of_torch:  # at a batch that was to come
            return Outcome("diverged", f"{message}; torch: {of_torch}")
        return Outcome("fault: diverged alone" if np.isfinite(losses[error.step]) else "diverged", message)
    if (
        trained.stage != "building"
        and one_by_one
        and ("a batch of one sample" in message or "the first targets decided" in message or torch_refuses(case))
    ):
        return Outcome("refused late, by data that come batch by batch", message)
    single = "of one sample" in message or "more than 1 value per channel" in message
    if trained.stage == "evaluating" and "track_running_stats=False" in case.model and single:
        return Outcome("refused, as by torch", message)
    late = trained.stage == "evaluating" or (trained.stage == "training" and "Multiclass" in message)
    if late and "the metric" in message:  # of another kind, which some shapes show
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
    given = dict(vars(fuzz_parts))
    exec(case.given(), given)
    return given


def asked(case: Case) -> dict[str, Any]:
    """The options of a case that are off in others."""
    return eval(f"dict({case.extras})")


def as_seen(case: Case, given: Mapping[str, Any]) -> Any:
    """The inputs as the library gives them to the model."""
    x = typed(case, given)
    whole = case.data.startswith("(x") and name_of(given["loss"]) != "owned" and x.is_floating_point()
    scale = scale_of(x) if whole and asked(case).get("standardise") else None
    return x if scale is None else ((x - scale[0].to(x.dtype)) / scale[1].to(x.dtype)).to(x.dtype)


def typed(case: Case, given: Mapping[str, Any]) -> Any:
    """The inputs in the type that the library gives them: float64 arrays as float32, whole data as the model's."""
    x = given["x"]
    if not x.is_floating_point() or not case.data.startswith("(x"):
        return x
    weights = list(given["model"].parameters())
    dtypes = [] if any(map(is_lazy, weights)) else [p.dtype for p in weights if p.is_floating_point()]
    x = x.float() if "numpy" in case.data and x.dtype == torch.float64 else x
    return x.to(dtypes[0]) if dtypes else x


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


def criterion_for(case: Case, given: dict[str, Any]) -> Any:
    """The criterion of a case; what the documentation promises where there is none."""
    if given["loss"] is not None:
        return in_units(case, given, NAMED[given["loss"]] if isinstance(given["loss"], str) else given["loss"])
    model = given["model"]
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in case.options):
        outputs = model.eval()(as_seen(case, given))
    for module, mode in modes:
        module.training = mode
    criterion = default_of(outputs, given["y"])
    assert criterion is not None, "no default loss"
    if asked(case).get("class_weights") and name_of(criterion) == "binary_cross_entropy_with_logits":
        ones = int((given["y"] == 1).sum())
        weight = torch.tensor((given["y"].numel() - ones) / ones if 0 < ones < given["y"].numel() else 1.0)
        return partial(criterion, pos_weight=weight)
    if asked(case).get("class_weights"):
        axis, criterion = (-1, criterion) if name_of(criterion) == "last_axis" else (1, spatial)
        return partial(criterion, weight=even_weights(given["y"], outputs.shape[axis]))
    return in_units(case, given, criterion)


def in_units(case: Case, given: Mapping[str, Any], criterion: Any) -> Any:
    """A criterion of distances, where that is asked for and they need it, of standardised targets."""
    distances = ("mse_loss", "MSELoss", "l1_loss", "huber_loss", "HuberLoss", "smooth_l1_loss", "SmoothL1Loss")
    if not (asked(case).get("standardise") and case.data.startswith("(x") and name_of(criterion) in distances):
        return criterion
    scale = scale_of(given["y"])
    return criterion if scale is None else InUnits(criterion, scale)


def smoothing_of(case: Case, given: Mapping[str, Any], criterion: Any) -> float:
    """The label smoothing that is asked for or, by default, a tenth for one class a sample."""
    amount = asked(case).get("smoothing", 0.0)
    if amount is None:
        y = given["y"]
        plain_classes = given["loss"] is None and name_of(criterion) == "last_axis" and y.ndim == 1
        return 0.1 if plain_classes and not y.is_floating_point() else 0.0
    assert not amount or (given["loss"] is None and is_classes(criterion)), "smoothing of the default cross-entropy"
    return amount


def torch_refuses(case: Case) -> bool:
    """Whether torch fails on one batch of all samples, or gives something else than one number."""
    given = namespace(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            criterion = criterion_for(case, given)
            optimizer = optimizer_of(given, arguments(case)[0], criterion)
            batch = (as_seen(case, given), given["y"])
            structure = case.data.partition("(")[0]
            if structure in OF_ONES_OWN:
                batch = given[structure](*batch, case.n)[0]
            half = "bf16" in case.options
            clip, smoothing = arguments(case)[2], smoothing_of(case, given, criterion)
            losses, _ = plain(given["model"], criterion, optimizer, [[batch]], [0.01], clip, half, smoothing)
            assert np.isfinite(losses[0]) or not ("KLDiv" in case.loss or ".half()" in case.x), "not finite"
    except Exception:
        return True
    return False


def arguments(case: Case) -> tuple[dict[str, Any], int, float | None]:
    """Options of the optimizer, accumulated batches, and the largest norm."""
    options = eval(f"dict({case.options})")
    options.pop("precision", None)
    return options, options.pop("accumulate", 1), options.pop("clip", None)


def groups_of(
    case: Case, source: Any, given: Mapping[str, Any], budget: Any, accumulate: int
) -> tuple[list[list[Any]], list[int], list[Any]]:
    """The batches of each update, after which of them an epoch ends, and the batches of the last epoch.

    They are as they come or, where the library batches them, as it says that they do.
    """
    epochs, limit = (budget, 10**9) if isinstance(budget, int) else (10**9, int(budget.split()[0]))
    as_they_come = case.data.startswith(AS_THEY_COME) and "shuffle" not in case.data and "Weighted" not in case.data
    groups: list[list[Any]] = []
    ends: list[int] = []
    batches: list[Any] = []
    for epoch in range(epochs):
        batches = list(given["data"] if as_they_come else source.epoch(epoch))
        if not as_they_come and "Weighted" not in case.data:
            check_epoch(case, as_seen(case, given), batches)
        groups += [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
        ends.append(min(limit, len(groups)))
        if len(groups) >= limit or not batches:
            break
    return groups[:limit], ends, batches


def check_epoch(case: Case, x: Tensor, batches: Sequence[Any]) -> None:
    """Whether batches that the library made hold each sample once, and are as few as that takes, of even sizes."""
    sizes, fewest = [len(inputs) for inputs, _ in batches], -(-len(x) // case.b)
    assert max(sizes) <= case.b or len(sizes) == len(x) // 2, f"more than {case.b}: {sizes}"
    assert len(sizes) in (fewest, len(x) // 2), f"sizes of batches: {sizes}"
    even = case.by == "learner" and "DataLoader" not in case.data and "Stream" not in case.data
    assert not even or max(sizes) - min(sizes) <= 1, f"uneven: {sizes}"
    samples = [sample for inputs, _ in batches for sample in inputs]
    seen, known = (sorted(sample.float().flatten().tolist() for sample in part) for part in (samples, x))
    assert np.allclose(seen, known, 1e-3, 1e-5), "each sample once"  # of standardised ones, to float32's rounding


def reference(case: Case, trained: Trained, nudge: float = 0.0, draw: int = 0) -> Expected:
    """What torch alone makes of a case; its weights and gradients off by `nudge` times what `draw` says."""
    given, ask, bf16 = namespace(case), asked(case), "bf16" in case.options
    budget, policy, lr = eval(f"({case.fit})")
    options, accumulate, clip = arguments(case)
    model, criterion = given["model"], criterion_for(case, given)
    if "Lazy" in case.model:  # whatever they were drawn from
        model.load_state_dict({name.partition(".")[2]: value for name, value in trained.start.items()}, strict=False)
    noise = Noise(nudge, draw)
    noise.weights(model.parameters())
    if case.freeze:
        freeze(model, given["optimizer"])
    groups, ends, last = groups_of(case, trained.batches, given, budget, accumulate)
    rates, x = [rate(policy, lr, k, len(groups)) for k in range(len(groups))], as_seen(case, given)
    every = ask.get("evaluate_every")
    dues = {k for k in range(1, len(groups) + 1) if k == len(groups) or (k % every == 0 if every else k in ends)}
    watching = Watching(
        model, criterion, lambda: measured(model, criterion, held_out(case, given, x), bf16),
        dues if case.valid != "None" else (),
        ask.get("average"), ask.get("keep_best"),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer, smoothing = optimizer_of(given, options, criterion), smoothing_of(case, given, criterion)
        losses, metrics = plain(model, criterion, optimizer, groups, rates, clip, bf16, smoothing, watching, noise)
        watching.end()
        if "estimated" in case.extras and not case.data.startswith("iter"):
            estimate(model, last, bf16)
        state, numbers = snapshot(given), measured(model, criterion, to_evaluate(case, given), bf16)
        predictions = None if trained.predictions is None else predicted(model, criterion, x.split(2 * case.b), bf16)
    return Expected(losses, metrics, watching.valid, state, numbers, predictions)


def held_out(case: Case, given: Mapping[str, Any], x: Tensor) -> list[Any]:
    """The batches of validation: as they come, or twice as large as in training."""
    return pairs(x, given["y"], 2 * case.b if case.valid == "(x, y)" else 3)


def compared(case: Case, given: Any, trained: Trained, expected: Expected) -> Outcome:
    """Equality to rounding, or what differs."""
    rounding = ROUNDING[precision(case)]
    if len(trained.updates) != len(expected.losses):
        return Outcome("fault: number of updates", f"{len(trained.updates)}, expected {len(expected.losses)}")
    for k, update in enumerate(trained.updates):
        numbers = {"loss": expected.losses[k], **expected.metrics[k]}
        if names := unequal({"loss": update.loss, **update.metrics}, numbers, rounding):
            return Outcome(f"fault: {names[0]} of an update", f"update {k}: {update.row}, expected {numbers}")
    if fault := validated(case, trained, expected, rounding):
        return fault
    for name, value in snapshot(given).items():
        if not torch.allclose(value, expected.state[name], rounding, rounding / 10, equal_nan=True):
            return Outcome("fault: final state", f"{name}: {value}, expected {expected.state[name]}")
    if names := unequal(trained.numbers, expected.numbers, rounding):
        return Outcome(f"fault: {names[0]} of evaluate", f"{trained.numbers}, expected {expected.numbers}")
    by_default = case.metrics == "None" and case.by == "learner"
    if by_default and ("accuracy" in trained.numbers) != ("accuracy" in expected.numbers):
        return Outcome("fault: accuracy or none", f"{trained.numbers}, expected {expected.numbers}")
    one, other = trained.predictions, expected.predictions
    if isinstance(other, Tensor) and not torch.allclose(one, other, rounding, rounding / 10, equal_nan=True):
        return Outcome("fault: predictions", f"{one}, expected {other}")
    return Outcome("equal")


def validated(case: Case, trained: Trained, expected: Expected, rounding: float) -> Outcome | None:
    """What differs in the times and numbers of validation; before the last one norms are estimated on a share."""
    if case.valid != "None" and trained.valid.keys() != expected.valid.keys():
        return Outcome("fault: times of validation", f"{trained.valid.keys()}, expected {expected.valid.keys()}")
    for k, valid in trained.valid.items() if "estimated" not in case.extras else ():
        if names := unequal(valid, expected.valid[k], rounding):
            return Outcome(f"fault: {names[0]} of validation", f"{k}: {valid}, expected {expected.valid[k]}")
    return None


def unequal(numbers: Mapping[str, float], expected: Mapping[str, float], rounding: float) -> list[str]:
    """The names of numbers that are not as expected; in bfloat16, where shares jump by samples, of the loss alone."""
    smooth = [name for name in numbers if name in expected and (rounding < ROUNDING["bf16"] or name == "loss")]
    return [n for n in smooth if not np.isclose(numbers[n], expected[n], rounding, rounding / 10, equal_nan=True)]


SIMPLE: dict[str, Sequence[Any]] = {
    "n": (3, 5, 8), "b": (1, 2, 4), "x": ("torch.randn(n, 5)",), "y": ("labels(3, n)",),
    "model": ("nn.Linear(5, 3)", "nn.Linear(5, 1)"), "modes": ("",), "loss": ("None", "nn.CrossEntropyLoss()"),
    "data": ("(x, y)", "pairs(x, y, b)"), "optimizer": ("torch.optim.SGD",), "options": ("", "accumulate=2"),
    "extras": ("",), "metrics": ("None",), "valid": ("None",),
    "by": ("learner",), "freeze": ("",), "test": ("pairs(x, y, 3)",),
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
