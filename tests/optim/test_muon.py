"""Muon against the singular value decomposition, torch's AdamW, and a formula written out."""

import copy
import math

import pytest
import torch
from torch import nn

from onecycle import ConfigError
from onecycle.models import build
from onecycle.optim.build import build_optimizer
from onecycle.optim.muon import Muon, inner_matrices
from onecycle.optim.orthogonal import COEFFICIENTS, orthogonal


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 5), (4, 30), (30, 4), (1, 7), (7, 1)])
def test_orthogonal_keeps_the_directions_and_evens_the_lengths(shape):
    matrix = numbers(*shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    lengths = torch.diagonal(u.T @ orthogonal(matrix) @ v.T)
    assert lengths.min() > 0.3 and lengths.max() < 1.3
    rebuilt = u @ torch.diag(lengths) @ v
    assert torch.allclose(rebuilt, orthogonal(matrix), atol=1e-4), "it has the singular vectors of the matrix"


def test_orthogonal_of_a_complex_matrix():
    matrix = torch.complex(numbers(6, 4), numbers(6, 4, seed=1))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    between = u.mH @ orthogonal(matrix) @ vh.mH
    lengths = torch.diagonal(between)
    assert torch.allclose(between, torch.diag(lengths), atol=1e-4)
    assert lengths.real.min() > 0.3 and lengths.real.max() < 1.3 and lengths.imag.abs().max() < 1e-4


def test_orthogonal_of_zeros_is_zero():
    assert not orthogonal(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("shape", [(6, 4), (8, 3, 3, 3)])
def test_a_matrix_step_is_the_formula(shape):
    weight = nn.Parameter(numbers(*shape))
    optimizer = Muon([{"params": [weight], "momentum": 0.8, "weight_decay": 0.1}], lr=0.05)
    expected, average = weight.detach().clone(), torch.zeros(shape)
    for seed in (1, 2, 3):
        gradient = numbers(*shape, seed=seed)
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.8 * average + 0.2 * gradient
        direction = orthogonal((0.8 * average + 0.2 * gradient).reshape(shape[0], -1)).reshape(shape)
        longest = max(shape[0], math.prod(shape[1:]))
        expected = expected * (1 - 0.05 * 0.1) - 0.05 * 0.2 * math.sqrt(longest) * direction
    assert torch.allclose(weight, expected, atol=1e-5)


def test_other_parameters_follow_adamw_at_a_share_of_the_rate():
    ours, theirs = nn.Parameter(numbers(5)), nn.Parameter(numbers(5))
    muon = Muon([{"params": [ours], "weight_decay": 0.2}], lr=0.06, adamw_scale=0.5)
    adamw = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.2)
    for seed in range(4):
        ours.grad = numbers(5, seed=seed)
        theirs.grad = numbers(5, seed=seed)
        muon.step()
        adamw.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_inner_matrices_are_neither_embeddings_nor_the_last_layer():
    model = build("char-transformer", input_shape=(8,), classes=11, width=16, depth=1, heads=2)
    inner = {id(p) for p in inner_matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in inner}
    assert names and all("weight" in name and "embed" not in name for name in names)
    outside = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in inner}
    assert outside == {"characters.weight", "positions.weight", "head.weight"}


def test_a_tied_last_layer_is_an_embedding():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    assert [id(p) for p in inner_matrices(model)] == [id(model.inner.weight)]


def test_the_recipe_covers_every_parameter_once_and_decays_the_inside_alone():
    model = build("small-cnn", input_shape=(1, 8, 8), classes=10)
    optimizer, _ = build_optimizer("muon", model)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in optimizer.param_groups[0]["params"])


def test_a_saved_state_goes_on_to_the_bit(tmp_path):
    def start():
        model = build("mlp", input_shape=(6,), classes=3, hidden=(5,))
        return model, build_optimizer("muon", model)[0]

    def steps(model, optimizer, seeds):
        for seed in seeds:
            model.zero_grad()
            model(numbers(4, 6, seed=seed)).square().mean().backward()
            optimizer.step()

    whole, optimizer = start()
    steps(whole, optimizer, range(8))
    first, optimizer = start()
    steps(first, optimizer, range(4))
    torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "half.pt")
    second, optimizer = start()
    weights, state = torch.load(tmp_path / "half.pt", weights_only=True)
    second.load_state_dict(weights)
    optimizer.load_state_dict(state)
    steps(second, optimizer, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_copy_steps_as_the_optimizer_that_it_was_made_of():
    weight, vector = nn.Parameter(numbers(4, 3)), nn.Parameter(numbers(3))
    optimizer = Muon([{"params": [weight], "momentum": 0.8}, {"params": [vector]}], adamw_scale=0.4)
    both = [optimizer, copy.deepcopy(optimizer)]
    for one in both:
        for group in one.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        one.step()
    weights = [[group["params"][0] for group in one.param_groups] for one in both]
    assert all(a is not b and torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_vector_in_a_group_for_matrices_is_refused():
    with pytest.raises(ConfigError, match="two or more dimensions"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "momentum": 0.8}])


@pytest.mark.parametrize("shape", [(4, 4), (3, 30), (30, 3), (6, 12), (150, 140)])
def test_a_stack_of_matrices_is_made_orthogonal_as_each_of_them_is(shape):
    stack = numbers(5, *shape)
    together, alone = orthogonal(stack), torch.stack([orthogonal(matrix) for matrix in stack])
    assert torch.allclose(together, alone, atol=0.02 if min(shape) >= 128 else 1e-4)


@pytest.mark.parametrize("shape", [(40, 40), (20, 90), (200, 160)])
def test_singular_values_down_to_a_fiftieth_become_about_1(shape):
    m, n = sorted(shape)
    u, v = torch.linalg.qr(numbers(m, m))[0], torch.linalg.qr(numbers(n, n, seed=1))[0]
    # One large direction among many small ones, as gradients have it: the bound on the largest is then a tight one.
    values = torch.full((m,), 0.035)
    values[0] = 1.0
    matrix = (u * values) @ v[:m]
    lengths = torch.linalg.svdvals(orthogonal(matrix if shape[0] == m else matrix.T))
    assert lengths.min() > 0.85 and lengths.max() < 1.15


def test_the_polynomials_are_the_nearest_to_1():
    """No polynomial of the form is nearer to 1 than the last, over what those before make of 1/50 to 1."""
    x = torch.logspace(math.log10(1 / 50), 0, 4000, dtype=torch.float64)
    for a, b, c in COEFFICIENTS:
        powers = torch.stack([x, x**3, x**5], 1)
        made = powers @ torch.tensor([a, b, c], dtype=torch.float64)
        error = (made - 1).abs().max()
        for seed in range(200):  # a convex problem: no small change makes it better
            other = torch.tensor([a, b, c], dtype=torch.float64) + 0.01 * numbers(3, seed=seed).double()
            assert (powers @ other - 1).abs().max() > error - 1e-3
        x = torch.linspace(float(made.min()), float(made.max()), 4000, dtype=torch.float64)
    assert x[0] > 0.9 and x[-1] < 1.1


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_orthogonal_of_matrices_of_any_size_is_finite(scale):
    made = orthogonal(scale * numbers(6, 9))
    assert bool(made.isfinite().all()) and torch.linalg.svdvals(made)[0] < 1.3
    if scale > 1:
        assert torch.linalg.svdvals(made)[-1] > 0.7


def test_half_weights_stay_in_their_type():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        made = orthogonal(numbers(6, 20).to(dtype))
        assert made.dtype == dtype and torch.linalg.svdvals(made.float())[-1] > 0.8


def test_matrices_of_one_shape_are_updated_as_each_by_itself():
    def step(together: bool) -> list[torch.Tensor]:
        weights = [nn.Parameter(numbers(*shape, seed=i)) for i, shape in enumerate([(6, 4), (4, 6), (4, 3, 2), (6, 4)])]
        for i, weight in enumerate(weights):
            weight.grad = numbers(*weight.shape, seed=10 + i)
        groups = [{"params": part, "momentum": 0.9} for part in ([weights] if together else [[w] for w in weights])]
        for optimizer in [Muon(groups, lr=0.1)] if together else [Muon([group], lr=0.1) for group in groups]:
            optimizer.step()
        return weights

    for one, other in zip(step(True), step(False), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_groups_of_layers_do_not_change_a_bit():
    def step(split: bool) -> list[torch.Tensor]:
        weights = [nn.Parameter(numbers(5, 7, seed=i)) for i in range(3)]
        for i, weight in enumerate(weights):
            weight.grad = numbers(5, 7, seed=10 + i)
        Muon([{"params": part, "momentum": 0.9} for part in ([[w] for w in weights] if split else [weights])]).step()
        return weights

    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))
