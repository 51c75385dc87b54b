"""The statistics of batch norms fit the weights, before each evaluation and at the end of a run."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training_makers import blobs, differing, global_generators, new_state, seeded_net, weights

from onecycle import ConfigError, Learner, preset
from onecycle.data.batches import ListBatches, OneShotBatches, TensorBatches, as_batches
from onecycle.training.loop import EpochEnd, train
from onecycle.training.norms import SAMPLES, batch_norms, estimate_statistics
from onecycle.training.signals import StopRequest

X, Y = blobs(48)
POLICY = preset("one_cycle", 0.2, 30)


def batches(n: int = 48, size: int = 8) -> TensorBatches:
    return TensorBatches(blobs(n), size, 3)


def norm_of(model: nn.Module) -> nn.BatchNorm1d:
    return next(part for part in model.modules() if isinstance(part, nn.BatchNorm1d))


def by_hand(model: nn.Module, source, epoch: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over batches of what the norm of `seeded_net` sees."""
    with torch.no_grad():
        seen = [model[0][0](x) for (x, _), _ in zip(source.epoch(epoch), range(count), strict=False)]
    return torch.stack([x.mean(0) for x in seen]).mean(0), torch.stack([x.var(0) for x in seen]).mean(0)


def test_at_the_end_they_are_means_over_the_epochs_batches():
    state, source = new_state(), batches()
    *_, end = train(state, source, 2, POLICY)
    assert isinstance(end, EpochEnd)
    mean, variance = by_hand(state.model, source, 1, 6)
    torch.testing.assert_close(norm_of(state.model).running_mean, mean)
    torch.testing.assert_close(norm_of(state.model).running_var, variance)


def test_a_run_that_is_told_to_stop_at_the_end_of_an_epoch_has_them_too():
    state, stop = new_state(), StopRequest()
    for event in train(state, batches(), 5, POLICY, stop=stop):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            stop.reason = "enough"
            saved = copy.deepcopy(state.state_dict())
    mean, _ = by_hand(state.model, batches(), 1, 6)
    assert state.step == 12
    torch.testing.assert_close(norm_of(state.model).running_mean, mean)
    resumed = new_state()
    resumed.load_state_dict(saved)
    assert list(train(resumed, batches(), 5, POLICY, stop=stop)) == []
    assert differing(weights(resumed.model), weights(state.model)) == []


def test_going_on_with_a_run_that_is_over_changes_nothing():
    state = new_state()
    for event in train(state, batches(), 2, POLICY):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            saved = copy.deepcopy(state.state_dict())
    resumed = new_state()
    resumed.load_state_dict(saved)
    assert list(train(resumed, batches(), 2, POLICY)) == []
    assert differing(weights(resumed.model), weights(state.model)) == []


def test_before_an_evaluation_in_mid_run_a_quarter_of_the_batches_will_do():
    state, source, seen = new_state(), batches(96), []

    def evaluate() -> dict[str, float]:
        mean, _ = by_hand(state.model, source, state.at.epoch, [3, 12][len(seen)])
        seen.append(torch.allclose(norm_of(state.model).running_mean, mean, atol=1e-6))
        return {"loss": 0.0}

    list(train(state, source, 2, POLICY, evaluate))
    assert seen == [True, True]


def test_many_samples_are_enough():
    state, source = new_state(), batches(4 * SAMPLES, 64)
    list(train(state, source, "3 updates", POLICY))
    mean, _ = by_hand(state.model, source, 0, SAMPLES // 64)
    torch.testing.assert_close(norm_of(state.model).running_mean, mean)


def test_nothing_else_changes():
    state, caller = new_state(), global_generators()
    norm = norm_of(state.model)
    list(train(state, batches(), "4 updates", POLICY))
    before, modes = weights(state.model), [part.training for part in state.model.modules()]
    norm.running_mean.add_(1.0)
    estimate_statistics(state, batches())
    assert differing(before, weights(state.model)) == ["0.1.running_mean", "0.1.running_var"], "of another epoch now"
    assert [part.training for part in state.model.modules()] == modes and global_generators() == caller
    assert norm.momentum == 0.1 and int(norm.num_batches_tracked) == 4


def test_the_training_itself_is_the_same_with_running_means_which_are_an_option():
    one, other = new_state(), new_state(norm_statistics="running")
    losses = [[e.loss for e in train(s, batches(), 1, POLICY) if not isinstance(e, EpochEnd)] for s in (one, other)]
    assert losses[0] == losses[1]
    assert differing(weights(one.model), weights(other.model)) == ["0.1.running_mean", "0.1.running_var"]
    with pytest.raises(ConfigError, match=r"unknown norm_statistics 'momentum': .*estimated, running"):
        new_state(norm_statistics="momentum")
    assert Learner(seeded_net(), (X, Y), norm_statistics="running", verbose=False).state.norm_statistics == "running"


def test_a_short_run_is_measured_as_the_model_that_it_is():
    """Of four updates running means still hold much of where they began."""
    x, y = X * 5 + 20, Y
    accuracies = {}
    for name in ("estimated", "running"):
        options = {"norm_statistics": name, "batch_size": 24, "standardise": False, "verbose": False}
        learn = Learner(seeded_net(dropout=0), (x, y), (x, y), **options)
        result = learn.fit(2, lr_max=0.3)
        accuracies[name] = result.valid["accuracy"]
    assert accuracies["estimated"] > accuracies["running"] + 0.2


def test_a_run_that_was_broken_off_anywhere_ends_with_the_same_statistics():
    def state():
        return new_state(adam)

    def adam(model):
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    unbroken = state()
    valid = [
        e.valid for e in train(unbroken, batches(), 3, POLICY, lambda: norm_means(unbroken)) if isinstance(e, EpochEnd)
    ]
    for stop in (3, 6, 7, 13, 20):
        first, second = state(), state()
        events = train(first, batches(), 3, POLICY, lambda first=first: norm_means(first))
        for _, _event in zip(range(stop), events, strict=False):
            pass
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        rest = train(second, batches(), 3, POLICY, lambda second=second: norm_means(second))
        ends = [e.valid for e in rest if isinstance(e, EpochEnd)]
        assert (
            differing(weights(second.model), weights(unbroken.model)) == [] and ends == valid[len(valid) - len(ends) :]
        )


def norm_means(state) -> dict[str, float]:
    return {"loss": float(norm_of(state.model).running_mean.sum())}


def test_norms_in_evaluation_mode_keep_what_they_have():
    state = new_state()
    norm_of(state.model).eval()
    list(train(state, batches(), 1, POLICY))
    assert not norm_of(state.model).running_mean.any() and not norm_of(state.model).training


class Counted(ListBatches):
    begun = 0

    def epoch(self, epoch: int, start: int = 0):
        type(self).begun += 1
        return super().epoch(epoch, start)


def test_a_net_without_norms_reads_nothing_more():
    x, y = blobs(16)
    model = nn.Linear(4, 3)
    learn = Learner(model, Counted([(x[:8], y[:8]), (x[8:], y[8:])]), verbose=False)
    Counted.begun = 0
    learn.fit(3, lr_max=0.01)
    assert Counted.begun == 3 and learn.resolved["norm_statistics"] is None


def test_an_iterator_leaves_running_means():
    state = new_state()
    source = OneShotBatches(iter(list(batches().epoch(0))))
    list(train(state, source, "6 updates", POLICY))
    assert int(norm_of(state.model).num_batches_tracked) == 6


class TrainedOnly(nn.Module):
    """Gives its loss in training, and something else in evaluation, as nets for detection do."""

    def __init__(self):
        super().__init__()
        self.body = seeded_net()

    def forward(self, x, y):
        outputs = self.body(x)
        return {"loss": nn.functional.cross_entropy(outputs, y)} if self.training else outputs.argmax(1)


def test_a_loss_of_ones_own_is_called_as_in_training():
    learn = Learner(TrainedOnly(), (X, Y), loss=lambda model, batch: model(*batch)["loss"], verbose=False)
    learn.fit(1, lr_max=0.01)
    mean, _ = by_hand(learn.model.body, learn.train, 0, len(learn.train))
    torch.testing.assert_close(norm_of(learn.model).running_mean, mean)


def test_norms_are_listed_once():
    norm = nn.BatchNorm1d(3)
    assert batch_norms([nn.Sequential(norm, norm), norm]) == [norm]


def test_averaged_weights_get_statistics_of_their_own():
    state, source = new_state(average=0.9), batches()
    list(train(state, source, 2, POLICY))
    state.take_averages()
    mean, variance = by_hand(state.model, source, 1, 6)
    torch.testing.assert_close(norm_of(state.model).running_mean, mean)
    torch.testing.assert_close(norm_of(state.model).running_var, variance)


def test_evaluations_within_an_epoch_have_them_too():
    state, source, seen = new_state(), batches(96), []

    def evaluate() -> dict[str, float]:
        mean, _ = by_hand(state.model, source, 0, 12 if len(seen) == 2 else 3)
        seen.append(torch.allclose(norm_of(state.model).running_mean, mean, atol=1e-6))
        return {"loss": 0.0}

    list(train(state, source, 1, POLICY, evaluate, evaluate_every=4))
    assert seen == [True, True, True]


def test_workers_that_stay_are_not_disturbed_within_an_epoch():
    loader = torch.utils.data.DataLoader([0, 0, 0], num_workers=1, persistent_workers=True)
    state = new_state()
    state.at.batch = 1
    before = weights(state.model)
    assert estimate_statistics(state, as_batches(loader), within=True)
    assert differing(before, weights(state.model)) == []
