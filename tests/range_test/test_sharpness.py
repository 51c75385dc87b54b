"""Sharpness against Hessians written out, and the Hessian-free estimate against gradient descent by hand."""

import math
import random

import numpy
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import parameters_to_vector

from onecycle import ConfigError, TrainingError
from onecycle.models import build
from onecycle.range_test.sharpness import HessianFree, sharpness


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(*eigenvalues):
    """x and x.Ax/2 + b.x, for a matrix A with these eigenvalues in no special directions."""
    n = len(eigenvalues)
    directions, _ = torch.linalg.qr(numbers(n, n))
    matrix = directions @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ directions.T
    x = nn.Parameter(numbers(n, seed=1))
    return x, lambda: x @ matrix @ x / 2 + numbers(n, seed=2) @ x


def dominant(matrix):
    values = torch.linalg.eigvalsh(matrix)
    return values[values.abs().argmax()].item()


def full_hessian(model, loss):
    """[parameters, parameters] of `loss(model)`, all at once."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def of_vector(vector):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return loss(lambda x: functional_call(model, named, x))

    return hessian(of_vector, parameters_to_vector(model.parameters()).detach())


@pytest.mark.parametrize(
    "eigenvalues", [(5.0, 2.0, 1.0, 0.1), (-7.0, 3.0, 1.0, 0.5), (-0.004, -0.001), (3.0,), (4.0, 4.0, -1.0)]
)
def test_of_a_quadratic_it_is_the_dominating_eigenvalue_with_its_sign(eigenvalues):
    x, loss = quadratic(*eigenvalues)
    assert sharpness(loss, [x], iterations=100, tolerance=0) == pytest.approx(eigenvalues[0], rel=1e-6)


def test_two_signs_of_one_size_have_that_size():
    a, b = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.8))
    assert abs(sharpness(lambda: 6 * a * b, [a, b])) == pytest.approx(6), "a saddle: 6 and -6"


def test_more_iterations_come_nearer_and_never_beyond():
    x, loss = quadratic(5.0, -4.5, 4.0, 3.0, -2.0, 1.0)
    values = [abs(sharpness(loss, [x], iterations=n, tolerance=0)) for n in (1, 2, 4, 8, 16, 64)]
    assert values == sorted(values) and values[0] < 4.9 < values[-2] <= values[-1] <= 5 + 1e-9


def test_it_stops_when_the_value_changes_little():
    x, loss = quadratic(*(5 * 0.9**k for k in range(40)))
    value = sharpness(loss, [x], iterations=10**9, tolerance=1e-2)
    assert value == pytest.approx(5, rel=0.03) and value != pytest.approx(5, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_of_a_network_it_is_that_of_the_whole_hessian(scale):
    model = build("mlp", input_shape=(5,), classes=3, hidden=(7,)).double()
    x, y = numbers(16, 5), torch.arange(16) % 3
    with torch.no_grad():
        for p in model.parameters():
            p.add_(numbers(*p.shape, seed=p.numel()), alpha=0.3)
    expected = dominant(full_hessian(model, lambda f: scale * cross_entropy(f(x), y)))
    value = sharpness(lambda: scale * cross_entropy(model(x), y), model.parameters(), iterations=200, tolerance=1e-9)
    assert value == pytest.approx(expected, rel=1e-5)
    usual = sharpness(lambda: scale * cross_entropy(model(x), y), model.parameters())
    assert usual == pytest.approx(expected, rel=0.1), "with the usual iterations and tolerance"


def test_parameters_without_gradient_or_use_are_left_out():
    first, second, frozen, unused = (nn.Parameter(torch.tensor(float(i))) for i in range(4))
    frozen.requires_grad_(False)
    loss = lambda: first**2 + 50 * frozen * second**2 / 2 + second  # noqa: E731
    assert sharpness(loss, [first, frozen, unused, first]) == pytest.approx(2)
    assert sharpness(loss, [first, frozen, unused, second], tolerance=0) == pytest.approx(100)


def test_a_loss_without_curvature_has_none():
    x = nn.Parameter(torch.ones(3))
    assert sharpness(lambda: x.sum(), [x]) == 0.0
    assert sharpness(lambda: (0 * x**2).sum(), [x]) == 0.0


def test_a_transformer_agrees_with_differences_of_its_gradients():
    model = build("char-transformer", input_shape=(6,), classes=5, width=8, depth=1, heads=2).double()
    text = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0))
    weight = model.get_parameter("blocks.0.attention.qkv.weight")
    with torch.no_grad():
        weight.add_(numbers(*weight.shape))

    def loss():
        return cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())

    rows, h = [], 1e-5
    flat = weight.detach().view(-1)
    for i in range(flat.numel()):
        flat[i] += h
        above = torch.autograd.grad(loss(), weight)[0]
        flat[i] -= 2 * h
        below = torch.autograd.grad(loss(), weight)[0]
        flat[i] += h
        rows.append((above - below).view(-1) / (2 * h))
    expected = dominant(torch.stack(rows))
    assert sharpness(loss, [weight], iterations=300, tolerance=1e-8) == pytest.approx(expected, rel=1e-3)


def test_a_transformer_in_training_with_dropout_in_float32():
    model = build("char-transformer", input_shape=(6,), classes=5, width=8, depth=1, heads=2, dropout=0.1).train()
    text = torch.randint(0, 5, (4, 7), generator=torch.Generator().manual_seed(0))
    loss = lambda: cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())  # noqa: E731
    values = {sharpness(loss, model.parameters(), seed=3) for _ in range(3)}
    assert len(values) == 1 and math.isfinite(values.pop())


@pytest.mark.parametrize("training", [True, False])
def test_no_trace_is_left(training):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))
    model.train(training)
    for p in model.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    x = numbers(8, 4).float()
    model[0].weight.grad = gradient = torch.ones_like(model[0].weight)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = [*model.parameters(), *model.buffers()]
    versions = [tensor._version for tensor in tensors]
    generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()

    def loss():
        random.random(), numpy.random.rand()
        return mse_loss(model(x), torch.ones(8, 1))

    with torch.no_grad():
        assert sharpness(loss, model.parameters()) == sharpness(loss, model.parameters()) != 0
        assert not torch.is_grad_enabled()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(a is b for a, b in zip(tensors, [*model.parameters(), *model.buffers()], strict=True))
    assert versions == [tensor._version for tensor in tensors], "nothing was written into"
    assert model[0].weight.grad is gradient and bool((gradient == 1).all())
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert all(part.training is training for part in model.modules())
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[1] == random.getstate()
    assert generators[2] == numpy.random.get_state()[1].tolist()


def test_no_trace_is_left_by_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    before, mean = torch.get_rng_state(), model[0].running_mean

    def loss():
        model(torch.rand(4, 2))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sharpness(loss, model.parameters())
    assert model[0].running_mean is mean and not mean.any() and torch.equal(before, torch.get_rng_state())


def test_the_callers_graph_survives():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    mine = model(torch.ones(4, 2)).square().mean()
    sharpness(lambda: model(torch.ones(4, 2)).square().mean(), model.parameters())
    mine.backward()
    assert model[0].weight.grad is not None


class Once(torch.autograd.Function):
    """Squares, with a gradient that has none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        return gradients[0] * 2 * ctx.saved_tensors[0]


@pytest.mark.parametrize("last", [torch.sum, lambda y: y.exp().sum()], ids=["at the end", "inside"])
def test_what_has_no_second_derivative_is_said(last):
    x = nn.Parameter(torch.ones(2))
    with pytest.raises(TrainingError, match=r"cannot be differentiated twice.*once_differentiable.*plain torch"):
        sharpness(lambda: last(Once.apply(x)), [x])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value):
    x = nn.Parameter(torch.ones(2))
    with pytest.raises(TrainingError, match=f"the loss is {value}"):
        sharpness(lambda: x.sum() * value, [x])


def test_a_product_that_is_not_finite_is_refused():
    x = nn.Parameter(torch.zeros(2))
    with pytest.raises(TrainingError, match="not finite"):
        sharpness(lambda: x.abs().pow(1.5).sum(), [x])


def test_bad_arguments_are_refused():
    x = nn.Parameter(torch.ones(2))
    for options in ({"iterations": 0}, {"iterations": 2.5}, {"tolerance": -1.0}, {"tolerance": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            sharpness(lambda: x.sum(), [x], **options)
    with pytest.raises(ConfigError, match="no parameters"):
        sharpness(lambda: x.sum(), [])
    with pytest.raises(ConfigError, match="one number"):
        sharpness(lambda: x * 2, [x])
    for constant in (lambda: x.detach().sum(), lambda: nn.Parameter(torch.ones(1)).square().sum()):
        with pytest.raises(ConfigError, match="depends on none"):
            sharpness(constant, [x])


CURVATURE, START = (2.0, 0.5, -1.0), (3.0, -4.0, 0.2)


def descend(weights, lr):
    """Gradient descent on sum h x^2 / 2."""
    with torch.no_grad():
        weights -= lr * torch.tensor(CURVATURE) * weights


def test_the_estimate_of_gradient_descent_is_the_closed_form():
    # Where x' = (1 - lr h) x, t1 - t0 = -lr h x and 2 t1 - t0 - t2 = -(lr h)^2 x: so sum h|x| / sum h^2|x|.
    weights, lr = nn.Parameter(torch.tensor(START)), 0.1
    estimate, expected, oldest = HessianFree([weights]), None, list(START)
    assert [estimate.update(lr), (descend(weights, lr), estimate.update(lr))[1]] == [None, None]
    for _ in range(5):
        descend(weights, lr)
        first, second = (sum(abs(h) ** k * abs(x) for h, x in zip(CURVATURE, oldest, strict=True)) for k in (1, 2))
        expected = first / second if expected is None else 0.9 * expected + 0.1 * first / second
        assert estimate.update(lr) == pytest.approx(expected, rel=1e-4)
        oldest = [(1 - lr * h) * x for h, x in zip(CURVATURE, oldest, strict=True)]


def test_the_estimate_is_the_papers_formula_over_all_tensors():
    parts = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))]
    parts[2].requires_grad_(False)
    estimate, history = HessianFree(parts), []
    for seed in range(6):
        for i, p in enumerate(parts):
            p.data = numbers(*p.shape, seed=10 * seed + i).float()
        history.append(torch.cat([p.detach().flatten().clone() for p in parts[:2]]))
        value = estimate.update(0.3)
    expected = None
    for t0, t1, t2 in zip(history, history[1:], history[2:], strict=False):
        one = 0.3 * ((t1 - t0).abs().sum() / (2 * t1 - t0 - t2).abs().sum()).item()
        expected = one if expected is None else 0.9 * expected + 0.1 * one
    assert value == pytest.approx(expected, rel=1e-5)


def test_a_rising_learning_rate_is_not_taken_for_curvature():
    weights = nn.Parameter(torch.ones(5, dtype=torch.float64))
    estimate = HessianFree([weights])
    for k in range(10):
        lr = 1e-4 * 1.3**k
        with torch.no_grad():
            weights -= lr * 4 * weights
        value = estimate.update(lr)
        assert value == (None if k < 2 else pytest.approx(1 / 4, rel=1e-6))


def test_iterates_that_tell_nothing_leave_the_estimate():
    weights = nn.Parameter(torch.tensor(START))
    estimate = HessianFree([weights])
    for lr in (0.1, 0.1, 0.1):
        descend(weights, lr)
        known = estimate.update(lr)
    assert known is not None
    for nothing in (lambda: weights.data.fill_(math.nan), lambda: weights.data.fill_(1.0)):
        nothing()
        assert [estimate.update(0.1) for _ in range(4)] == [known] * 4
    descend(weights, 0.1)
    assert estimate.update(0.0) == known


def test_a_straight_line_has_no_best_rate():
    weights = nn.Parameter(torch.zeros(2))
    estimate = HessianFree([weights])
    for _ in range(5):
        weights.data += 0.5
        assert estimate.update(0.5) is None


def test_the_estimate_keeps_two_copies_and_changes_nothing():
    weights = nn.Parameter(torch.tensor(START))
    estimate = HessianFree([weights])
    version = weights._version
    for _ in range(5):
        estimate.update(0.1)
    assert len(estimate._iterates) == 2 and weights._version == version and weights.grad is None


def test_bad_input_of_the_estimate_is_refused():
    with pytest.raises(ConfigError, match="no parameters"):
        HessianFree([])
    for lr in (-0.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="learning rate"):
            HessianFree([nn.Parameter(torch.ones(1))]).update(lr)
