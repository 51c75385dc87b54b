"""Means over samples, and a model that is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_makers import CPU, TASK, blobs, differing, global_generators, seeded_net, weights

from onecycle import ConfigError, DataError, Runtime, Supervised, evaluate, predict
from onecycle.data.batches import ListBatches, OneShotBatches
from onecycle.training import evaluate as evaluation
from onecycle.training.evaluate import evaluating

X, Y = blobs(22)
RAGGED = [(X[:16], Y[:16]), (X[16:20], Y[16:20]), (X[20:], Y[20:])]


class Correct:
    """A meter in torchmetrics' manner."""

    def __init__(self):
        self.right = self.all = 1000

    def reset(self):
        self.right = self.all = 0

    def update(self, outputs, targets):
        self.right += int((outputs.argmax(1) == targets).sum())
        self.all += len(targets)

    def compute(self):
        return self.right / self.all


def test_a_ragged_batch_counts_by_its_samples():
    model = seeded_net()
    model.eval()
    whole = F.cross_entropy(model(X), Y).item()
    found = evaluate(model, RAGGED, TASK, CPU)
    assert found["loss"] == pytest.approx(whole, rel=1e-6)
    assert found["accuracy"] == pytest.approx((model(X).argmax(1) == Y).float().mean().item(), rel=1e-6)
    per_batch = sum(F.cross_entropy(model(x), y).item() for x, y in RAGGED) / 3
    assert found["loss"] != pytest.approx(per_batch, rel=1e-4)


def test_the_model_is_left_as_it_was():
    model = seeded_net()
    model.train()
    model[0][1].eval()
    F.cross_entropy(model(X), Y).backward()
    before, modes = weights(model), [module.training for module in model.modules()]
    gradients = [p.grad.clone() for p in model.parameters()]
    evaluate(model, RAGGED, TASK, CPU)
    predict(model, RAGGED, CPU)
    assert differing(before, weights(model)) == []
    assert [module.training for module in model.modules()] == modes and not model[0][1].training
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_modes_come_back_after_an_error():
    model = seeded_net().train()
    with pytest.raises(RuntimeError), evaluating(CPU, model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        raise RuntimeError
    assert all(module.training for module in model.modules()) and torch.is_grad_enabled()


def test_a_model_that_draws_in_evaluation_leaves_the_callers_generators():
    class Sampled(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    before = global_generators()
    task = Supervised(nn.functional.mse_loss)
    first = evaluate(Sampled(), [(X, X)], task, CPU)
    assert global_generators() == before
    torch.rand(1)
    assert evaluate(Sampled(), [(X, X)], task, CPU) == first
    predict(Sampled(), [X], CPU)


def test_meters_are_reset_fed_and_read():
    model = seeded_net().eval()
    task = Supervised(TASK.criterion, {}, {"correct": Correct()})
    for _ in range(2):
        found = evaluate(model, RAGGED, task, CPU)
        assert found["correct"] == (model(X).argmax(1) == Y).double().mean().item()


def test_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    model = seeded_net().eval()
    task = Supervised(TASK.criterion, {}, {"f1": torchmetrics.F1Score("multiclass", num_classes=3, average="macro")})
    found = evaluate(model, RAGGED, task, CPU)["f1"]
    picked = model(X).argmax(1)
    scores = [
        2 * ((picked == c) & (c == Y)).sum().item() / ((picked == c).sum() + (c == Y).sum()).item() for c in range(3)
    ]
    assert found == pytest.approx(sum(scores) / 3)


def test_a_loss_of_ones_own_with_and_without_metrics():
    batches = [{"x": torch.ones(3, 1)}, {"x": torch.zeros(1, 1)}]
    assert evaluate(nn.Identity(), batches, lambda model, b: model(b["x"]).mean(), CPU) == {"loss": 0.75}
    both = evaluate(nn.Identity(), batches, lambda model, b: (model(b["x"]).mean(), {"n": float(len(b["x"]))}), CPU)
    assert both == {"loss": 0.75, "n": 2.5}


def test_predictions_are_in_order_and_float32():
    model = seeded_net().eval()
    with torch.no_grad():
        expected = model(X)
    torch.testing.assert_close(predict(model, RAGGED, CPU), expected)
    torch.testing.assert_close(predict(model, [X[:5], X[5:]], CPU), expected)
    low = predict(model, [X], Runtime.choose("cpu", "bf16"))
    assert low.dtype == torch.float32 and not low.requires_grad


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no batches to evaluate"):
        evaluate(seeded_net(), [], TASK, CPU)
    with pytest.raises(DataError, match="nothing to predict"):
        predict(seeded_net(), [], CPU)


def test_the_device_is_the_models_where_none_is_given(monkeypatch):
    model, moved = seeded_net(), []
    monkeypatch.setattr(Runtime, "of", lambda of: moved.append(of) or CPU)
    assert evaluate(model, RAGGED, TASK) == evaluate(model, RAGGED, TASK, CPU)
    torch.testing.assert_close(predict(model, RAGGED), predict(model, RAGGED, CPU))
    assert moved == [model, model]


def test_a_model_without_values_is_refused_before_a_batch_is_read():
    model = nn.Linear(2, 3, device="meta")
    for call in (lambda: evaluate(model, iter(RAGGED), TASK), lambda: predict(model, iter(RAGGED))):
        with pytest.raises(ConfigError, match="Linear is on the meta device"):
            call()
    assert evaluate(nn.Identity(), [(X, X)], Supervised(F.mse_loss)) == {"loss": 0.0}


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (ListBatches([(X[:2], Y[:2])] * 5), 5.0),
        (ListBatches([(X[:2], Y[:2])]), 1.0),
        (OneShotBatches(iter([(X[:2], Y[:2])] * 5)), 1.0),
        (ListBatches([(X[:2], Y[:2])] * 5), 500.0),
    ],
    ids=["several", "one", "iterator", "slow"],
)
def test_how_long_an_evaluation_takes_is_told_from_a_batch_that_is_not_the_first(batches, expected, monkeypatch):
    """The first takes 100 s, which is long where that is not allowed."""
    monkeypatch.setattr(evaluation, "LONG", 1000.0 if expected < 100 else 1.0)
    clock = [0.0]
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    model = seeded_net()
    called = model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + (1 if clock[0] else 100)))
    assert evaluation.seconds(model, batches, TASK, CPU) == expected
    called.remove()
    assert len(list(batches.epoch(0))) in (5, 1), "what was looked at is not lost"


def test_how_long_an_evaluation_of_nothing_takes():
    with pytest.raises(DataError, match="no batches"):
        evaluation.seconds(seeded_net(), ListBatches([]), TASK, CPU)
