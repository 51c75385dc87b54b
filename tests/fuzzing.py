"""Trainings drawn at random, held against a plain torch loop over the same batches.

A case (fuzz_cases.py) is trained twice, by a `Learner` and by `plain`. What may come of it is equality to rounding, or
a `OneCycleError` before the first update.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import fuzz_parts
import numpy as np
import torch
from fuzz_cases import Case
from fuzz_plain import FREE, NAMED, default_of, freeze, measured, name_of, optimizer_of, plain, rate
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onecycle import OneCycleError, Update, evaluate
from onecycle.errors import NonFiniteLoss


class Outcome(NamedTuple):
    """What came of a case, "equal", "diverged", "refused", ... or "fault: ...", and in which words."""

    kind: str
    message: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind.startswith("fault")


ON_PURPOSE = (
    "a batch of one sample", "metrics beside loss=fn", "fails on the model's outputs", "the metric ",
    "is larger than the data",
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
            warnings.filterwarnings("ignore", "Sparse invariant checks")  # torch's own Adagrad
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
    return rounded(case, given, trained, expected, outcome) if outcome.is_fault and not case.double else outcome


ROUNDING = {"fp32": 2e-5, "bf16": 2e-4, "fp64": 1e-6}
"""How far numbers may be apart, relatively, without a look at where that comes from."""
ULPS = {"fp32": 2.0**-23, "bf16": 2.0**-8}
"""The distance of 1 from its neighbour."""


def precision(case: Case) -> str:
    """In which a case is computed."""
    return "fp64" if case.double else "bf16" if "bf16" in case.options else "fp32"


def rounded(case: Case, given: Any, trained: Trained, expected: Any, outcome: Outcome) -> Outcome:
    """Whether a difference is rounding: equal in float64, and no larger than what an ulp at the beginning makes.

    The loss of the first update has to be equal in any precision. Where the loop of torch ends further apart by itself
    than library and loop do, float64 decides the rest.
    """
    twin, first = run(case.in_double()), expected[0][0][0]
    if not np.isclose(trained.updates[0].loss, first, 2e-5, equal_nan=True):
        return Outcome(outcome.kind, f"the first loss is {trained.updates[0].loss}, expected {first}")
    if twin.kind != "equal":
        return Outcome(outcome.kind, f"{outcome.message}; in float64: {twin}")
    apart = distance((snapshot(given), trained.numbers), expected[1:])
    nudged = [reference(case, trained, nudge=ULPS[precision(case)], draw=draw) for draw in range(4)]
    spread = max(distance(one[1:], expected[1:]) for one in nudged)
    if apart <= 4 * spread or not np.isfinite(spread):
        return Outcome("equal in float64, and by rounding apart", f"{apart:.1e} beside {spread:.1e}: {outcome.message}")
    return Outcome(f"{outcome.kind}, not in float64", f"{apart:.1e} beside {spread:.1e}: {outcome.message}")


def distance(one: Any, other: Any) -> float:
    """How far final states and losses of an evaluation are apart at most, relative to their size or to a tenth."""
    (state, numbers), (expected, measures) = one, other
    pairs = [(state[name].double(), value.double()) for name, value in expected.items() if name in state]
    pairs += [(torch.tensor(numbers["loss"]).double(), torch.tensor(measures["loss"]).double())]
    return max(float(((a - b).abs() / (b.abs() + 0.1)).max()) if a.numel() else 0.0 for a, b in pairs)


@dataclass
class Trained:
    """What the library did, so far: its learner, updates, and numbers of an evaluation."""

    stage: str = "building"
    learn: Any = None
    batches: Any = None
    start: dict[str, Tensor] = field(default_factory=dict)
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
    trained.start, trained.stage = snapshot(given), "training"
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
    given = dict(vars(fuzz_parts))
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


def groups_of(case: Case, source: Any, given: Mapping[str, Any], budget: Any, accumulate: int) -> list[list[Any]]:
    """The batches of each update: as they come or, where the library batches them, as it says that they do."""
    epochs, limit = (budget, 10**9) if isinstance(budget, int) else (10**9, int(budget.split()[0]))
    as_they_come = case.data.startswith(AS_THEY_COME) and "shuffle" not in case.data
    groups: list[list[Any]] = []
    for epoch in range(epochs):
        batches = list(given["data"] if as_they_come else source.epoch(epoch))
        if not as_they_come:
            check_epoch(case, given["x"], batches)
        groups += [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
        if len(groups) >= limit or not batches:
            break
    return groups[:limit]


def check_epoch(case: Case, x: Tensor, batches: Sequence[Any]) -> None:
    """Whether batches that the library made hold each sample once, and are as few as that takes, of even sizes."""
    sizes, fewest = [len(inputs) for inputs, _ in batches], -(-len(x) // case.b)
    assert max(sizes) <= case.b or len(sizes) == len(x) // 2, f"more than {case.b}: {sizes}"
    assert len(sizes) in (fewest, len(x) // 2), f"sizes of batches: {sizes}"
    even = case.by == "learner" and "DataLoader" not in case.data and "Stream" not in case.data
    assert not even or max(sizes) - min(sizes) <= 1, f"uneven: {sizes}"
    samples = [sample for inputs, _ in batches for sample in inputs]
    seen, known = (sorted(sample.float().flatten().tolist() for sample in part) for part in (samples, x))
    assert seen == known, "each sample once"


def reference(
    case: Case, trained: Trained, nudge: float = 0.0, draw: int = 0
) -> tuple[Any, dict[str, Tensor], dict[str, float]]:
    """The losses of the updates, the final state and the numbers of an evaluation, by torch alone.

    The initial weights are `nudge` apart from the case's, as `draw` says.
    """
    given = namespace(case)
    budget, policy, lr = eval(f"({case.fit})")
    options, accumulate, clip = arguments(case)
    bf16 = "bf16" in case.options
    model = given["model"]
    criterion = criterion_for(case, given)
    if "Lazy" in case.model:  # whatever they were drawn from
        model.load_state_dict({name.partition(".")[2]: value for name, value in trained.start.items()}, strict=False)
    generator = torch.Generator().manual_seed(draw)
    for p in model.parameters() if nudge else ():
        p.data.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
    if case.freeze:
        freeze(model, given["optimizer"])
    groups = groups_of(case, trained.batches, given, budget, accumulate)
    rates = [rate(policy, lr, k, len(groups)) for k in range(len(groups))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = plain(model, criterion, optimizer_of(given, options, criterion), groups, rates, clip, bf16)
        final = snapshot(given)
        return losses, final, measured(model, criterion, to_evaluate(case, given), bf16)


def compared(case: Case, given: Any, trained: Trained, training: Any, final: Any, expected: Any) -> Outcome:
    """Equality to rounding, or what differs."""
    rounding = ROUNDING[precision(case)]
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
    """The names of numbers that are not as expected; in bfloat16, where shares jump by samples, of the loss alone."""
    smooth = [name for name in numbers if name in expected and (rounding < ROUNDING["bf16"] or name == "loss")]
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
