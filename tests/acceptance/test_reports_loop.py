"""Stopping, keeping, measuring and averaging within a fit, with tests named after public reports."""

from __future__ import annotations

import copy
import json
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import ConfigError, Interrupted, Learner
from onecycle.errors import StopTraining
from onecycle.records.best import EarlyStopping
from onecycle.records.checkpoint import load_weights
from onecycle.records.files import RUN, read_jsonl
from onecycle.training.loop import EpochEnd, Update

G = torch.Generator().manual_seed(0)
X = torch.randn(96, 5, generator=G)
LABELS = (X[:, 0] > 0).long()
VALID = (torch.randn(40, 5, generator=G), torch.randint(0, 2, (40,), generator=G))


def learner(valid=VALID, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return Learner(net, (X, LABELS), valid, **{"batch_size": 16, "verbose": False, "optimizer": "sgd", **options})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# An observer that ends the fit


@pytest.mark.parametrize("at", [0, 7, 11])
def test_an_observer_ends_a_fit_well_fastai_457(at, tmp_path):
    def stop(event):
        if isinstance(event, Update) and event.step == at:
            raise StopTraining("enough")

    learn = learner()
    result = learn.fit(5, lr_max=0.1, out=tmp_path / "run", observers=[stop])
    assert result.updates == at + 1 == learn.state.step and result.valid == learn.evaluate()
    assert f"stopped after {at + 1} update{'s' if at else ''}: enough" in learn.notes
    record = RUN.read(tmp_path / "run")
    assert record["status"] == "finished" and record["result"]["updates"] == at + 1
    plain = copy.deepcopy(learn.model)
    load_weights(plain, tmp_path / "run" / "model.safetensors")
    assert same(weights(plain), weights(learn.model))
    learn.fit(1, lr_max=0.1)  # the next fit is whole
    assert learn.state.step == at + 7


class AtOnce:
    """Asks for the end as the fit begins."""

    def __init__(self):
        self.measured = []

    def begin(self, measured):
        self.measured = list(measured)
        raise StopTraining("it was good before")

    def __call__(self, event):
        pass


def test_an_end_before_the_first_update_is_refused(tmp_path):
    learn = learner()
    for _ in range(2):  # and after a whole fit, too
        with pytest.raises(ConfigError, match=r"nothing was trained: an observer.*\(it was good before\)"):
            learn.fit(5, lr_max=0.1, observers=[AtOnce()])
        learn.fit(1, lr_max=0.1)
    with pytest.raises(ConfigError, match="nothing was trained"):
        learn.fit(5, lr_max=0.1, out=tmp_path / "run", observers=[AtOnce()])
    assert not RUN.exists(tmp_path / "run"), "nothing was tried, and the folder is free"


def test_a_run_that_is_resumed_may_be_ended_as_it_begins(tmp_path):
    def power_cut(event):
        if isinstance(event, Update) and event.step == 14:
            raise KeyError

    learn = learner()
    with pytest.raises(KeyError):
        learn.fit(5, lr_max=0.1, out=tmp_path / "run", observers=[power_cut])
    again, at_once = learner(), AtOnce()
    result = again.fit(5, lr_max=0.1, out=tmp_path / "run", observers=[at_once], resume=True)
    assert result.updates > 0 and at_once.measured and RUN.read(tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize("options", [{"evaluate_every": 5}, {"evaluate_every": 50}, {"valid": None}, {}])
def test_a_fit_that_is_stopped_at_the_end_of_an_epoch_is_measured_there(options):
    def stop(event):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            raise StopTraining("enough")

    learn = learner(**options)
    result = learn.fit(5, lr_max=0.1, observers=[stop])
    assert result.updates == 12 and result.valid == (learn.evaluate() if learn.valid else None)


def test_what_is_measured_there_is_recorded_and_counts_for_the_best_weights(tmp_path):
    def stop(event):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            raise StopTraining("enough")

    learn = learner(evaluate_every=5, keep_best="loss")
    result = learn.fit(5, lr_max=0.1, out=tmp_path / "run", observers=[stop])
    assert (result.updates, learn.history.measured()[-1][0]) == (12, 11), "after the last update, too"
    recorded = [json.loads(line) for line in (tmp_path / "run/epochs.jsonl").read_text().splitlines()]
    assert [{"fit": 0, **row} for row in recorded] == learn.history.epochs
    measured = [valid["loss"] for _, valid in learn.history.measured()]
    assert recorded[-1]["valid_loss"] == measured[-1] and len(measured) == 3
    assert result.valid["loss"] == min(measured) == learn.evaluate()["loss"]


def test_the_record_of_a_model_that_came_in_evaluation_mode_says_how_its_norms_are_measured(tmp_path):
    learn = learner()
    learn.model.eval()
    learn.fit(1, lr_max=0.1, out=tmp_path / "run")
    assert RUN.read(tmp_path / "run")["resolved"]["norm_statistics"] == "estimated"


def test_early_stopping():
    stopper = EarlyStopping("loss", patience=2)
    learn = learner()
    learn.fit(50, "constant", 1.0, observers=[stopper])
    losses = [row["valid_loss"] for row in learn.history.epochs]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 50
    assert any("validation loss has not become better in 2 measurements" in note for note in learn.notes)


def test_early_stopping_of_a_resumed_run_is_the_same(tmp_path):
    class Killed(Exception): ...

    def kill(event):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            raise Killed

    whole = learner()
    stopped = whole.fit(50, "constant", 1.0, out=tmp_path / "whole", observers=[EarlyStopping("loss", patience=2)])
    assert stopped.updates > 12, "after the end of the second epoch, where the other is killed"
    with pytest.raises(Killed):
        learner().fit(50, "constant", 1.0, out=tmp_path / "killed", observers=[EarlyStopping("loss", patience=2), kill])
    resumed = learner()
    again = resumed.fit(
        50, "constant", 1.0, out=tmp_path / "killed", resume=True, observers=[EarlyStopping("loss", patience=2)]
    )
    assert again.updates == stopped.updates and same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("every", [None, 4])
def test_a_run_that_is_interrupted_where_it_was_to_stop_stops_there_when_it_is_resumed(every, tmp_path):
    def interrupt(event):
        if event.row["step"] == stopped.updates - 1 and event.valid is not None:
            signal.raise_signal(signal.SIGINT)

    def stopping():
        return EarlyStopping("loss", patience=2)

    whole = learner(evaluate_every=every, keep_best="loss")
    stopped = whole.fit(50, "constant", 1.0, observers=[stopping()])
    with pytest.raises(Interrupted):
        learner(evaluate_every=every, keep_best="loss").fit(
            50, "constant", 1.0, out=tmp_path / "run", observers=[stopping(), interrupt]
        )
    resumed = learner(evaluate_every=every, keep_best="loss")
    again = resumed.fit(50, "constant", 1.0, out=tmp_path / "run", resume=True, observers=[stopping()])
    assert again.updates == stopped.updates and again.valid == stopped.valid
    assert same(weights(resumed.model), weights(whole.model))
    notes = RUN.read(tmp_path / "run")["notes"]
    assert [sum(note.startswith(word) for note in notes) for word in ("stopped after", "kept: ")] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"patience": 0}, "patience is the measurements"), ({"least": -1.0}, "least is a finite number")],
)
def test_early_stopping_that_cannot_be(arguments, says):
    with pytest.raises(ConfigError, match=says):
        EarlyStopping(**arguments)


# Validation between the ends of epochs


@pytest.mark.parametrize("every", [1, 4, 6, 9, 100])
def test_validation_every_so_many_updates_fastai_180(every, tmp_path):
    calls = []

    def loss(model, batch):
        if not model.training:
            calls.append(1)
        return F.cross_entropy(model(batch[0]), batch[1])

    plain, learn = learner(), learner(loss=loss, evaluate_every=every, smoothing=None)
    plain.fit(3, lr_max=0.1)
    calls.clear()
    result = learn.fit(3, lr_max=0.1, out=tmp_path / "run")
    due = sorted({*range(every, 19, every), 18})
    assert [row["step"] + 1 for row in learn.history.steps if "valid_loss" in row] == [k for k in due if k % every == 0]
    assert [step + 1 for step, _ in learn.history.measured()] == due
    assert len(calls) == 2 * len(due), "not twice for the same weights"
    assert result.valid == {"loss": pytest.approx(learn.evaluate()["loss"])}
    recorded = [row for row in read_jsonl(tmp_path / "run" / "steps.jsonl") if "valid_loss" in row]
    assert [row["valid_loss"] for row in recorded] == [
        dict(learn.history.measured())[row["step"]]["loss"] for row in recorded
    ]


def test_validation_in_between_changes_no_weight():
    plain, measured = learner(), learner(evaluate_every=2)
    for learn in (plain, measured):
        learn.fit(3, lr_max=0.1)
    assert same(weights(plain.model), weights(measured.model))


# The best weights


class Shifted(nn.Module):
    """A criterion with a parameter."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs + self.shift, targets)


def test_with_the_best_weights_comes_the_criterion_that_they_were_measured_by():
    learn = learner(loss=Shifted(), keep_best="loss")
    result = learn.fit(8, "constant", 1.0)
    assert result.valid == learn.evaluate()


@pytest.mark.parametrize("name", ["accuracy", "loss"])
@pytest.mark.parametrize("every", [None, 4])
def test_the_best_weights_are_kept_lightning_348(name, every, tmp_path):
    seen = {}

    def remember(event):
        if event.valid is not None:
            seen[event.row["step"] + 1] = (event.valid[name], weights(learn.model))

    learn = learner(keep_best=name, evaluate_every=every)
    result = learn.fit(8, "constant", 1.0, out=tmp_path / "run", observers=[remember])
    best = (min if name == "loss" else max)(value for value, _ in seen.values())
    step = next(step for step, (value, _) in seen.items() if value == best)
    assert result.valid[name] == best and learn.evaluate()[name] == best
    assert same(weights(learn.model), seen[step][1])
    assert any(note.startswith(f"kept: the weights of update {step}, epoch") for note in learn.notes)
    plain = copy.deepcopy(learn.model)
    load_weights(plain, tmp_path / "run" / "model.safetensors")
    assert same(weights(plain), seen[step][1])


@pytest.mark.parametrize("options", [{"keep_best": "loss"}, {"average": 0.9}, {"average": 0.9, "keep_best": "loss"}])
def test_a_killed_run_with_them_ends_the_same(options, tmp_path):
    class Killed(Exception): ...

    def kill(event):
        if isinstance(event, Update) and event.step == 27:
            raise Killed

    whole = learner(**options)
    expected = whole.fit(8, "constant", 1.0, out=tmp_path / "whole")
    with pytest.raises(Killed):
        learner(**options).fit(8, "constant", 1.0, out=tmp_path / "killed", observers=[kill])
    resumed = learner(**options)
    result = resumed.fit(8, "constant", 1.0, out=tmp_path / "killed", resume=True)
    assert result.valid == expected.valid and same(weights(resumed.model), weights(whole.model))


def test_what_cannot_be_kept_is_said_before_the_first_update(tmp_path):
    for valid, name, says in (
        (None, "loss", "needs validation data"),
        (VALID, "acuracy", "did you mean accuracy"),
    ):
        learn = learner(valid, keep_best=name)
        with pytest.raises(ConfigError, match=says):
            learn.fit(1, lr_max=0.1, out=tmp_path / "run")
        assert learn.state.step == 0 and not (tmp_path / "run").exists()


# A moving average of the weights


def test_a_moving_average_follows_its_formula_nanodet_354():
    states = []
    learn = learner(average=0.7, norm_statistics="running")
    learn.fit(2, lr_max=0.1, observers=[lambda event: states.append(weights(learn.model))])
    raw = [state for i, state in enumerate(states) if i not in (6, 13)]  # not at the ends of the epochs
    expected = raw[0]
    for k, state in enumerate(raw[1:], 2):
        keep = min(0.7, (1 + k) / (10 + k))
        expected = {
            name: state[name] if not t.is_floating_point() else keep * t + (1 - keep) * state[name]
            for name, t in expected.items()
        }
    for name, tensor in learn.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_the_average_is_what_is_measured_and_predicted_with(tmp_path):
    class Enough(Exception): ...

    def look(event):
        if isinstance(event, EpochEnd):
            raw = weights(learn.model)
            with learn.state.averaged():
                averaged = weights(learn.model)
                outputs = learn.model.eval()(VALID[0])
                learn.model.train()
            assert same(raw, weights(learn.model)) and not same(raw, averaged)
            assert event.valid["loss"] == pytest.approx(F.cross_entropy(outputs, VALID[1]).item(), rel=1e-5)
            torch.testing.assert_close(learn.predict(VALID[0]), outputs.softmax(1))
            learn.model.train()

    learn = learner(average=0.9)
    learn.fit(3, lr_max=0.1, observers=[look])
    assert learn.state.averages is None, "the model has them now"


def test_a_trial_and_a_range_test_leave_the_averages_alone():
    learn = learner(average=0.9)
    learn.range_test()
    assert learn.state.averages is None
    plain = learner(average=0.9)
    for each in (learn, plain):
        each.fit(2, lr_max=0.1)
    assert same(weights(learn.model), weights(plain.model))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"average": 1.0}, "average is a share"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"keep_best": 3}, "keep_best"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(ConfigError, match=says):
        learner(**options)


def test_data_that_keep_their_place_on_themselves_are_not_read_again_within_an_epoch():
    class Kept:
        def __iter__(self):
            self.i = 0
            while self.i < 12:
                self.i += 1
                yield X[8 * self.i - 8 : 8 * self.i], LABELS[8 * self.i - 8 : 8 * self.i]

    runs = []
    for every in (None, 5, 12):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        learn = Learner(net, Kept(), VALID, optimizer="sgd", evaluate_every=every, verbose=False)
        result = learn.fit("24 updates", lr_max=0.1)
        runs.append(learn)
        assert [row["samples"] for row in learn.history.epochs] == [96, 96] and result.valid == learn.evaluate()
    assert all(same(weights(runs[0].model), weights(other.model)) for other in runs[1:])
