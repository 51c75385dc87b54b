"""What one update does, against gradients written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_makers import CPU, TASK, adamw, blobs, differing, seeded_net, sgd, weights

from onecycle import ConfigError, DataError, Runtime, Supervised, TrainingError, TrainState
from onecycle.training.losses import cross_entropy
from onecycle.training.metrics import accuracy, binary_accuracy
from onecycle.training.objectives import pair
from onecycle.training.step import OVERFLOWS_ALLOWED, compute, samples_in, update

X, Y = blobs(20)


def plain_net() -> nn.Module:
    """Without batch norm and dropout, where halves of a batch make the whole."""
    net = seeded_net(dropout=0.0)
    net[0][1] = nn.Identity()
    return net


def state_of(model: nn.Module, make=sgd, loss=TASK, runtime=CPU, **options) -> TrainState:
    return TrainState(model, make(model), loss, runtime, **options)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_one_batch_is_forward_backward_step(make):
    ours, by_hand = seeded_net(dropout=0.0), seeded_net(dropout=0.0)
    optimizer = make(by_hand)
    state = state_of(ours, make)
    for _ in range(3):
        loss, metrics, samples, _ = update(state, [(X, Y)])
        optimizer.zero_grad()
        outputs = by_hand(X)
        expected = F.cross_entropy(outputs, Y)
        expected.backward()
        optimizer.step()
        assert torch.equal(loss, expected.detach()) and not loss.requires_grad and samples == 20
        assert metrics["accuracy"].item() == (outputs.argmax(1) == Y).float().mean().item()
    assert differing(weights(ours), weights(by_hand)) == []


def test_accumulated_batches_with_a_ragged_last_one_make_the_gradient_of_the_whole():
    whole, parts = plain_net(), plain_net()
    one = update(state_of(whole), [(X, Y)])
    four = update(state_of(parts), [(X[a:b], Y[a:b]) for a, b in ((0, 6), (6, 12), (12, 18), (18, 20))])
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(one[0], four[0])
    torch.testing.assert_close(one[1]["accuracy"], four[1]["accuracy"])
    assert one[2] == four[2] == 20


def test_gradients_of_the_update_before_are_gone():
    model = plain_net()
    state = state_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    fresh = plain_net()
    update(state, [(X, Y)])
    update(state_of(fresh), [(X, Y)])
    assert differing(weights(model), weights(fresh)) == []


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_clip_bounds_the_norm_over_all_parameters(limit):
    model = plain_net()
    F.cross_entropy(model(X), Y).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    update(state_of(model, clip=limit), [(X, Y)])
    clipped = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert clipped == pytest.approx(min(norm, limit), rel=1e-3)


def test_clip_applies_to_the_unscaled_gradient():
    fp16 = Runtime.choose("cpu", "fp16")
    model = plain_net()
    update(state_of(model, runtime=fp16, clip=1e-3), [(X, Y)])
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_label_smoothing_is_for_training_alone():
    model = plain_net()
    task = Supervised(cross_entropy, smoothing=0.2)
    model.train()
    assert torch.equal(task(model, (X, Y))[0], F.cross_entropy(model(X), Y, label_smoothing=0.2))
    model.eval()
    assert torch.equal(task(model, (X, Y))[0], F.cross_entropy(model(X), Y))


def test_meters_are_fed_in_evaluation_alone():
    class Meter:
        seen = 0

        def update(self, outputs, targets):
            self.seen += len(targets)

    model, meter = plain_net(), Meter()
    task = Supervised(cross_entropy, meters={"m": meter})
    task(model.train(), (X, Y))
    assert meter.seen == 0
    task(model.eval(), (X, Y))
    assert meter.seen == 20


def overflowing(times: int):
    """A loss whose first `times` gradients overflow."""
    calls = []

    def loss(model, batch):
        calls.append(batch)
        value = F.cross_entropy(model(batch[0]), batch[1])
        return value * float("inf") if len(calls) <= times else value

    return loss, calls


def test_an_overflow_is_tried_again_on_the_same_batches():
    loss, calls = overflowing(3)
    model = plain_net()
    state = state_of(model, loss=loss, runtime=Runtime.choose("cpu", "fp16"))
    before, scale = weights(model), state.scaler.get_scale()
    value, _, samples, _ = update(state, [(X, Y)])
    assert len(calls) == 4 and all(batch[0] is X for batch in calls)
    assert samples == 20 and bool(torch.isfinite(value)) and differing(before, weights(model))
    assert state.scaler.get_scale() == scale / 8


def test_endless_overflow_is_an_error_that_leaves_the_weights():
    loss, calls = overflowing(10**6)
    model = plain_net()
    before = weights(model)
    with pytest.raises(TrainingError, match=f"update 0 overflowed {OVERFLOWS_ALLOWED} times.*bf16"):
        update(state_of(model, loss=loss, runtime=Runtime.choose("cpu", "fp16")), [(X, Y)])
    assert len(calls) == OVERFLOWS_ALLOWED and differing(before, weights(model)) == []


def test_a_loss_of_ones_own_gives_plain_numbers_as_metrics_too():
    model = plain_net()
    total = model(X).sum()
    loss, metrics, _ = compute(lambda m, b: (m(b).mean(), {"total": m(b).sum(), "one": 1.0}), model, X, CPU)
    assert loss.requires_grad and {k: v.item() for k, v in metrics.items()} == {"total": total.item(), "one": 1.0}
    assert not metrics["total"].requires_grad, "a metric must not keep the graph of its batch"
    assert compute(lambda m, b: m(b).mean(), model, X, CPU)[1] == {}


@pytest.mark.parametrize(
    ("result", "says"), [(torch.zeros(3), r"a tensor of shape \(3,\)"), (1.5, "received 1.5"), (None, "received None")]
)
def test_a_loss_is_one_tensor_without_dimensions(result, says):
    with pytest.raises(ConfigError, match=says):
        compute(lambda model, batch: result, plain_net(), X, CPU)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(5, 2), 5),
        (torch.zeros(()), 1),
        ((torch.zeros(4, 2), torch.zeros(9)), 4),
        ([{"a": torch.zeros(6)}, torch.zeros(2)], 6),
        ({"text": ["a", "b", "c"], "x": torch.zeros(3)}, 3),
        (["a", "b"], 2),
        ("abc", 1),
        (object(), 1),
        ({}, 1),
        ({"text": ["a", "b"]}, 2),
        ({"scale": 3.0, "weight": torch.ones(()), "x": torch.zeros(7, 2)}, 7),
    ],
)
def test_samples_of_a_batch(batch, samples):
    assert samples_in(batch) == samples


@pytest.mark.parametrize(
    ("batch", "says"),
    [((X, X, Y), "a tuple of 3"), ({"x": X}, "a dict of 1"), (X, "a Tensor of 20"), (5, "a int")],
)
def test_the_default_loss_takes_pairs(batch, says):
    with pytest.raises(DataError, match=says + r"\. For any other structure give loss=fn"):
        pair(batch)


def test_accuracies_by_hand():
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [1.0, 0.0]])
    assert accuracy(outputs, torch.tensor([1, 1, 1, 0])).item() == 0.75
    assert accuracy(outputs.view(2, 2, 2), torch.tensor([[1, 1], [1, 1]])).item() == 0.5
    assert binary_accuracy(torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])).item() == 0.75


def test_cross_entropy_of_tokens_is_the_mean_over_all_of_them():
    outputs, targets = (
        torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, 1, 2], [3, 4, 0]]),
    )
    slow = torch.stack([-outputs[i, j].log_softmax(0)[targets[i, j]] for i in range(2) for j in range(3)]).mean()
    torch.testing.assert_close(cross_entropy(outputs, targets), slow)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type(dtype):
    outputs = torch.eye(3)
    assert torch.equal(cross_entropy(outputs, torch.arange(3).to(dtype)), cross_entropy(outputs, torch.arange(3)))


def test_a_label_without_an_output_is_a_data_error():
    with pytest.raises(DataError, match=r"from 0 to 2.*Target 3"):
        Supervised(cross_entropy)(nn.Identity(), (torch.eye(3), torch.tensor([0, 3, 1])))


def test_a_frozen_parameter_takes_no_step():
    model = plain_net()
    model[0][0].weight.requires_grad_(False)
    frozen = copy.deepcopy(model[0][0].weight)
    update(state_of(model), [(X, Y)])
    assert torch.equal(model[0][0].weight, frozen)


@pytest.mark.parametrize(
    "options",
    [
        {"nesterov": True},
        {"dampening": 0.5},
        {"dampening": 0.5, "weight_decay": 0.1},
        {"dampening": 0.5, "weight_decay": 0.1, "maximize": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_momentum_of_a_weight_whose_gradient_comes_later_is_that_of_plain_sgd(options):
    """A weight without a gradient at first, in a group whose other weight has momentum by then."""

    def trained(fused: bool) -> list[torch.Tensor]:
        model = plain_net()
        late = model[0][0].weight
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused, **options)
        state = TrainState(model, optimizer, TASK, CPU)
        for step in range(5):
            late.requires_grad_(step >= 2)
            update(state, [(X, Y)])
        return [p.detach() for p in model.parameters()]

    for one, other in zip(trained(fused=True), trained(fused=False), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_first_step_that_overflows_leaves_nothing_in_a_fused_optimizer():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    state = TrainState(model, optimizer, Supervised(nn.functional.mse_loss), Runtime.choose("cpu", "fp16"))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = model.weight.detach().clone()
    for _ in range(2):
        update(state, [(torch.full((4, 2), 3.0), torch.zeros(4, 1))])
    assert state.scaler.get_scale() < 2.0**40
    assert (model.weight - before).abs().max() < 10 and optimizer.state[model.weight][
        "momentum_buffer"
    ].abs().max() < 99
