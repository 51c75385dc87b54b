"""Fine-tuning in stages: the head on features, then all layers; broken off anywhere and resumed to the bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_makers import blobs, differing, weights

import onecycle
from onecycle import ConfigError, Interrupted, Learner
from onecycle.fits import run as fits
from onecycle.fits import staged
from onecycle.fits.run import Fit
from onecycle.fits.trained import HeadAlone
from onecycle.records.files import RUN
from onecycle.schedules.stages import METHODS, Stage, fine_tuning
from onecycle.training import evaluate as evaluation

DATA, VALID = blobs(96), blobs(45, seed=1)


def net(dropout: float = 0.0) -> nn.Sequential:
    """One that has been trained, but for its head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
        model = nn.Sequential(body, nn.Dropout(dropout), nn.Linear(12, 3))
        Learner(model, DATA, batch_size=8, verbose=False, device="cpu").fit(3, lr_max=0.02)
        model[2].reset_parameters()
    return model


def learner(model: nn.Module | None = None, train=DATA, valid=VALID, **options) -> Learner:
    options = {"batch_size": 8, "verbose": False, "device": "cpu", "optimizer": "adamw", **options}
    return Learner(net() if model is None else model, train, valid, **options)


@contextmanager
def interrupted_at(k: int) -> Iterator[None]:
    """Ctrl-C comes in the k-th step of AdamW within the block, which ends by it."""
    step, made = torch.optim.AdamW.step, []

    def counted(self, *args, **keywords):
        made.append(1)
        if len(made) == k:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(torch.optim.AdamW, "step", counted)
        yield


def test_the_head_on_features_is_trained_as_it_is_within_the_frozen_model():
    alone, within = learner(), learner()
    alone.fine_tune(stages=[Stage("4 epochs", "head", 0.01)])
    within.freeze()
    within.fit(4, lr_max=0.01)
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(tensor, within.model.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert [round(e["valid_loss"], 5) for e in alone.history.epochs] == [
        round(e["valid_loss"], 5) for e in within.history.epochs
    ]


def test_the_body_is_as_it_was_after_the_head_alone():
    learn = learner()
    before = weights(learn.model)
    learn.fine_tune(2, method="head")
    assert set(differing(before, weights(learn.model))) == {"2.weight", "2.bias"}


def test_features_are_computed_once_for_each_sample():
    seen = []
    model = net()
    learn = learner(model)
    model[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    learn.fine_tune(3, method="head")
    assert sum(seen) < 2 * (len(DATA[0]) + len(VALID[0])), "beside those that it is looked at by"


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    learn = learner()
    result = learn.fine_tune(3, method=method)
    notes = "\n".join(learn.notes)
    assert ("stage 2 of 2" in notes) == (method != "head")
    assert ("rise 100 times" in notes) == (method == "discriminative")
    assert ('"discriminative": the budget is too small for pilots of the others' in notes) == (method == "auto")
    assert result.valid == learn.evaluate()
    assert result.valid["accuracy"] > 0.8


def test_peaks_rise_from_the_first_layer_group_to_the_last():
    learn = learner()
    learn.fine_tune(2, 0.01, method="discriminative")
    rates = {group["layer"]: group["lr"] for group in learn.optimizer.param_groups}
    assert sorted(rates) == [0, 1, 2, 3], "linear, norm, linear, head"
    assert [rates[layer] / rates[3] for layer in range(4)] == pytest.approx([1e-2, 1e-2 ** (2 / 3), 1e-2 ** (1 / 3), 1])


def test_it_falls_back_to_the_head_where_the_rest_is_no_better():
    learn = learner()
    result = learn.fine_tune(1, 30.0)
    head = learner()
    only = head.fine_tune(stages=[Stage("20 epochs", "head")])
    assert result.valid == pytest.approx(only.valid)
    assert differing(weights(learn.model), weights(head.model)) == []
    assert any("kept: the weights that this began with" in note for note in learn.notes)


def test_it_falls_back_to_the_head_where_the_rest_is_less_accurate(monkeypatch):
    learn = learner()
    monkeypatch.setattr(learn, "evaluate", lambda keep=None: {"loss": 1e-3, "accuracy": 0.5})
    result = learn.fine_tune(1)
    assert result.valid["accuracy"] > 0.5
    assert any("began with: validation accuracy 50.00 %, and" in note for note in learn.notes)


def test_keep_best_counts_what_it_began_with():
    learn = learner(keep_best="loss")
    learn.fine_tune(1, 30.0)
    assert any("kept: the weights of before the first update" in note for note in learn.notes)


@pytest.mark.parametrize("k", [3, 240, 241, 275])
def test_broken_off_anywhere_and_resumed_to_the_bit(tmp_path, k):
    """In the head's 240 updates or in the 36 of all layers, by a signal."""
    whole = learner()
    whole.fine_tune(3, out=tmp_path / "whole")
    cut = learner()
    with interrupted_at(k):
        cut.fine_tune(3, out=tmp_path / "cut")
    assert RUN.read(tmp_path / "cut")["status"] == "interrupted"
    resumed = learner()
    result = resumed.fine_tune(3, out=tmp_path / "cut", resume=True)
    assert differing(weights(whole.model), weights(resumed.model)) == []
    assert result.valid == whole.evaluate()
    assert RUN.read(tmp_path / "cut")["status"] == "finished" and RUN.read(tmp_path / "cut")["stages"] == [
        "head",
        "all",
    ]
    counted = [[(row["fit"], row["step"]) for row in one.history.steps] for one in (whole, resumed)]
    assert counted[0] == counted[1] and len(counted[0]) == 276, "the history has the stages that were over"


def test_the_folder_of_a_run_has_its_stages_and_predicts(tmp_path):
    for method in ("auto", "head"):
        learn = learner()
        learn.fine_tune(2, method=method, out=tmp_path / method)
        trained = onecycle.load_run(tmp_path / method, model=net(), verbose=False)
        torch.testing.assert_close(trained.predict(VALID[0]), learn.predict(VALID[0]))
    assert RUN.read(tmp_path / "auto" / "stages" / "1-head")["status"] == "finished"
    assert not (tmp_path / "head" / "stages").exists()


def test_a_run_that_was_fine_tuned_is_extended(tmp_path):
    learn = learner()
    learn.fine_tune(2, method="discriminative", out=tmp_path / "first")
    again = learner()
    assert again.extend(1, run=tmp_path / "first", out=tmp_path / "more").valid["accuracy"] > 0.8
    assert again.state.step == 24 + 12


@pytest.mark.parametrize(
    ("model", "train", "options", "why"),
    [
        (None, DataLoader(TensorDataset(*DATA), 8, shuffle=True), {}, "batches of your own"),
        (None, DATA, {"loss": lambda model, batch: model(batch[0]).square().mean()}, "outputs and targets alone"),
    ],
    ids=["loader", "loss"],
)
def test_without_features_the_head_is_trained_within_the_model(model, train, options, why):
    valid = None if "loss" in options else VALID
    learn = learner(model, train, valid, **options)
    before = weights(learn.model)
    learn.fine_tune(stages=[{"budget": "2 epochs", "train": "head"}])
    moved = set(differing(before, weights(learn.model)))
    assert moved == {"2.weight", "2.bias"} and not learn.model[0][1].training
    if "loss" not in options:
        assert learn.evaluate()["accuracy"] > 0.4


def test_an_optimizer_of_ones_own_and_stages_without_features():
    model = net()
    learn = learner(model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3))
    learn.fine_tune(
        stages=[Stage("2 epochs", "head", 1e-3), Stage("2 epochs", 2, 1e-3), Stage("2 epochs", lr_max=(1e-5, 1e-3))]
    )
    assert any("as the optimizer is one of your own" in note for note in learn.notes)
    assert any("the last 2 layer groups" in note for note in learn.notes)
    assert learn.state.step == 24 and all(p.requires_grad for p in model.parameters())


def test_what_features_leave_out_is_said():
    learn = learner(net(dropout=0.3))
    learn.fine_tune(1)
    assert any("computed once, without the dropout before it" in note for note in learn.notes)


def test_adamw_in_place_of_muon_where_that_was_chosen():
    learn = learner(optimizer="auto")
    learn.fine_tune(1)
    assert isinstance(learn.optimizer, torch.optim.AdamW)
    muon = learner(optimizer="muon")
    muon.fine_tune(1)
    assert type(muon.optimizer).__name__ == "Muon"


def test_stages_are_plain_data():
    for stage in (*fine_tuning("5 epochs"), Stage(3, 2, (1e-5, 1e-3), options={"peak_at": 0.3})):
        assert Stage.of(json.loads(json.dumps(stage.to_dict()))).to_dict() == stage.to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "head"}, r'a stage is \{"budget": "3 epochs"'),
        ({"budget": "1 epochs", "trains": "head"}, "did you mean train"),
        ({"budget": "1 epochs", "train": "body"}, "unknown train 'body'"),
        ({"budget": "1 epochs", "lr_max": -1}, "lr_max.*above 0.*received -1"),
        ({"budget": "1 epochs", "lr_max": [1e-3, 1e-5]}, "0 < a <= b"),
        ({"budget": "1 epochs", "lr_max": [1e-5, 1e-3], "spread": 10}, "leave out spread"),
        ({"budget": "soon"}, "cannot read the budget 'soon'"),
        ({"budget": "1 epochs", "train": 9}, "train=9 of a stage: the model has 4 layer groups"),
    ],
)
def test_stages_that_cannot_be_trained(given, message):
    with pytest.raises(ConfigError, match=message):
        learner().fine_tune(stages=[given])


def test_arguments_that_do_not_go_together():
    with pytest.raises(ConfigError, match="leave out the other arguments"):
        learner().fine_tune(3, stages=[Stage(1)])
    with pytest.raises(ConfigError, match="stages is empty"):
        learner().fine_tune(stages=[])
    with pytest.raises(ConfigError, match="unknown method 'heads': did you mean head"):
        learner().fine_tune(3, method="heads")
    learn = learner()
    learn.fit(1)
    with pytest.raises(ConfigError, match="was trained before"):
        learn.fine_tune(1)


def test_a_head_that_shares_weights_is_trained_within_the_model():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.mix(self.embed(x)).relu())

    learn = learner(Tied())
    result = learn.fine_tune(2)
    assert any("shares weights with what comes before" in note for note in learn.notes)
    assert result.valid == pytest.approx(learn.evaluate())


def test_what_was_frozen_before_stays_so():
    model = net()
    model[0][0].requires_grad_(False)
    before = weights(model)
    learn = learner(model)
    learn.fine_tune(3, method="full")
    moved = set(differing(before, weights(model)))
    assert "0.3.weight" in moved and not moved & {"0.0.weight", "0.0.bias"}
    assert any("80 parameters were frozen before, and stay so" in note for note in learn.notes)


def test_features_of_several_shapes():
    class Trimmed(nn.Module):
        """Whose head pools over as much of the inputs as the longest of a batch has."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8))
            self.head = nn.Sequential(Pooled(), nn.Linear(8, 3))

        def forward(self, x):
            return self.head(self.body(x[:, : int((x != 0).sum(1).max()), None]))

    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean(1)

    x = 1 + torch.arange(96.0)[:, None] / 8 > torch.arange(12.0)[None]
    learn = learner(Trimmed(), (x.float(), DATA[1]), (x[:45].float(), VALID[1]), standardise=False)
    learn.fine_tune(1)
    assert any("the features of batches differ in their shapes" in note for note in learn.notes)


def test_samples_that_are_drawn_anew_are_not_kept():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, i):
            return DATA[0][i] + 0.1 * torch.randn(4), DATA[1][i]

    learn = learner(net(), Noisy())
    learn.fine_tune(1)
    assert any("the samples are others each time that they are read" in note for note in learn.notes)


def test_layer_groups_of_ones_own_say_what_the_head_is():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    learn = learner(model, layer_groups=[model[0], nn.ModuleList([model[2], model[4]])])
    before = weights(model)
    learn.fine_tune(stages=[Stage("2 epochs", "head")])
    assert set(differing(before, weights(model))) == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_a_model_of_one_layer_group_has_no_head():
    learn = learner(nn.Linear(4, 3))
    learn.fine_tune(1)
    assert any("no stage of the head" in note for note in learn.notes)
    with pytest.raises(ConfigError, match="one layer group, and no head"):
        learner(nn.Linear(4, 3)).fine_tune(1, method="head")


def test_a_time_budget_holds_for_the_head_too():
    x = torch.randn(30_000, 4)
    data = x, (x[:, 0] > 0).long()
    for method in ("auto", "head"):
        learn = learner(net(), data, VALID)
        asked = 20 * 30_000 // 8
        learn.fine_tune(budget="1s", method=method)
        made = [len(learn.history.steps)]
        assert made[0] < asked / 4, "far fewer than 20 epochs"


@pytest.mark.parametrize("limited", ["FEATURES", "PART"])
def test_the_head_is_trained_on_what_features_there_are(tmp_path, monkeypatch, limited):
    """Without time for features they are of a batch; without any for the head, it takes what they took."""
    monkeypatch.setattr(staged, limited, 0.0)
    monkeypatch.setattr(staged, "LEAST", 1e4)
    learn = learner(train=blobs(400))
    learn.fine_tune(budget="4s", method="full", out=tmp_path / "run")
    resolved = RUN.read(tmp_path / "run" / "stages" / "1-head")["resolved"]
    drawn = resolved.get("features", 400)
    assert drawn == (16 if limited == "FEATURES" else 400) and resolved["updates"] == 20 * (drawn // 8)
    assert any("drawn at random" in note for note in learn.notes) == (limited == "FEATURES")


def test_features_of_some_samples_are_drawn_again():
    learn = learner()
    head = HeadAlone.of(learn.state, learn._setup, learn._run_order)
    once, again = head.trained(seconds=0.0), head.trained(samples=16)
    assert once.samples == again.samples == 16
    assert all(torch.equal(a, b) for a, b in zip(once.train.tensors, again.train.tensors, strict=True))
    assert len(set(once.train.tensors[1].tolist())) > 1


def test_time_is_left_to_measure_the_weights_that_it_goes_back_to(tmp_path, monkeypatch):
    left, made = {}, Fit.seconds_to_record
    monkeypatch.setattr(evaluation, "seconds", lambda *about: 0.25)
    monkeypatch.setattr(fits, "seconds_to_record", lambda *about: 0.5)
    monkeypatch.setattr(Fit, "seconds_to_record", lambda fit: left.setdefault(method, []).append(made(fit)) or 0.0)
    for method in ("auto", "discriminative"):
        learner().fine_tune(budget="1s", method=method, out=tmp_path / method)
    assert (left["auto"][-1], left["discriminative"][-1]) == (0.75, 0.5)


def test_each_stage_of_ones_own_has_its_time():
    learn = learner()
    learn.fine_tune(stages=[{"budget": "0.5s", "train": "head"}, {"budget": "0.5s"}])
    assert learn.state.step > 3


def test_notes_are_of_the_optimizer_in_use():
    learn = learner(optimizer="auto")
    learn.fine_tune(1)
    assert sum("weight decay" in note for note in learn.notes) == 1


def test_a_run_of_the_default_optimizer_is_extended(tmp_path):
    learner(optimizer="auto").fine_tune(2, out=tmp_path / "first")
    again = learner(optimizer="auto")
    again.extend(1, run=tmp_path / "first")
    assert isinstance(again.optimizer, torch.optim.AdamW)


def test_what_trained_a_part_of_its_model_is_not_extended_to_all_of_it(tmp_path):
    head = learner()
    head.fine_tune(1, method="head", out=tmp_path / "head")
    with pytest.raises(ConfigError, match="the fit before trained a part of its model"):
        head.extend(1)
    learner().fine_tune(stages=[Stage("1 epochs", "head"), Stage("2 epochs", 1, 0.01)], out=tmp_path / "last")
    for folder in ("head", "last"):
        with pytest.raises(ConfigError, match=f"{folder} trained a part of its model, and an extension trains all"):
            learner().extend(1, run=tmp_path / folder)
    again = learner()
    again.freeze()
    before = weights(again.model)
    again.extend(1, run=tmp_path / "last")
    assert set(differing(before, weights(again.model))) == {"2.weight", "2.bias"}


def test_stages_of_layers_that_are_not_there_are_refused_before_the_first(tmp_path):
    learn = learner()
    with pytest.raises(ConfigError, match="train=9 of a stage: the model has 4 layer groups"):
        learn.fine_tune(stages=[Stage("1 epochs", "head"), Stage("1 epochs", 9)], out=tmp_path / "run")
    assert not learn.history.steps and not (tmp_path / "run").exists()


@pytest.mark.parametrize("lr_max", [0.01, slice(1e-4, 0.01)])
def test_an_optimizer_class_of_ones_own_has_one_peak_for_head_and_rest(tmp_path, lr_max):
    class Mine(torch.optim.SGD):
        pass

    learn = learner(optimizer=Mine)
    learn.fine_tune(2, lr_max, out=tmp_path / "run")
    assert "the head's peak is 0.01 too: an optimizer of your own has no default peak here" in learn.notes
    peaks = [RUN.read(tmp_path / folder)["resolved"]["lr_max"] for folder in ("run", "run/stages/1-head")]
    assert peaks == [0.01, 0.01] and learn.state.step == 24
    with pytest.raises(ConfigError, match="give lr_max: an optimizer of your own has no default peak here"):
        learner(optimizer=Mine).fine_tune(2)


def test_batch_norms_keep_what_they_came_with(tmp_path):
    """Also in an extension; and they can be trained where that is asked for."""
    model = net()
    before = weights(model)
    learn = learner(model)
    learn.fine_tune(2, method="full", out=tmp_path / "first")
    moved = set(differing(before, weights(model)))
    assert {"0.0.weight", "0.1.weight"} <= moved, "they are trained"
    assert not moved & {"0.1.running_mean", "0.1.running_var"}, "their statistics are not"
    assert any("the statistics of 1 batch norm stay as they came" in note for note in learn.notes)
    again = learner()
    again.extend(1, run=tmp_path / "first", out=tmp_path / "more")
    assert not {"0.1.running_mean"} & set(differing(before, weights(again.model)))
    learn = learner(fresh := net())
    learn.fine_tune(stages=[Stage("1 epochs", "head"), Stage("2 epochs", norms="trained")])
    assert "0.1.running_mean" in differing(before, weights(fresh))
    learn.unfreeze()
    assert all(module.training for module in learn.model.modules())


@pytest.mark.parametrize(
    ("last", "options"),
    [
        ({"lr_max": 1e-3, "options": {"momentum": (0.95, 0.85)}}, {}),
        ({"lr_max": "default", "spread": 100}, {}),
        ({"lr_max": [1e-5, 1e-3], "policy": "torch", "options": {"lr_start": 2e-4, "lr_end": 1e-8}}, {}),
        ({}, {"momentum": (0.9, 0.8), "search": 0.0}),
        ({"train": "head"}, {}),
        ({"train": 2}, {}),
    ],
    ids=["options", "default peak", "policy", "of the call", "head", "two groups"],
)
def test_a_run_with_a_folder_comes_to_what_it_does_without(tmp_path, last, options):
    first = (
        {"budget": "1 epochs", "train": 3, "lr_max": 1e-3} if last.get("train") == "head" else Stage("1 epochs", "head")
    )
    with_folder, without = learner(), learner()
    for learn, out in ((with_folder, tmp_path), (without, None)):
        learn.fine_tune(stages=[first, {"budget": "2 epochs", **last}], out=out, **options)
    assert differing(weights(with_folder.model), weights(without.model)) == []
    assert with_folder.history.steps[-9]["lr"] == without.history.steps[-9]["lr"]


def test_a_first_stage_that_cannot_be_trained_leaves_the_folder_free(tmp_path):
    first, last = {"budget": "1 epochs", "train": "head"}, Stage("1 epochs")
    with pytest.raises(ConfigError, match="peak_at"):
        learner().fine_tune(stages=[{**first, "options": {"peak_at": 3}}, last], out=tmp_path / "run")
    learner().fine_tune(stages=[first, last], out=tmp_path / "run")
    assert RUN.read(tmp_path / "run")["status"] == "finished"


def test_the_norms_of_a_new_head_learn_their_statistics():
    model = net()
    model[2] = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 3))
    body = model[0][1].running_mean.clone()
    learn = learner(model)
    learn.fine_tune(2, method="full")
    assert model[2][0].num_batches_tracked > 0 and model[2][0].running_mean.abs().sum() > 0
    assert torch.equal(model[0][1].running_mean, body)
    assert any("the statistics of 1 batch norm stay" in note for note in learn.notes)


def test_an_extension_that_is_resumed_keeps_the_statistics_too(tmp_path):
    model = net()
    body = model[0][1].running_mean.clone()
    learner(model, optimizer="auto").fine_tune(2, method="full", out=tmp_path / "first")
    cut = learner(optimizer="auto")

    def stop(event):
        if cut.state.updates == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.extend(2, run=tmp_path / "first", out=tmp_path / "more", observers=[stop])
    again = learner(optimizer="auto")
    again.extend(2, out=tmp_path / "more", resume=True)
    assert torch.equal(again.model[0][1].running_mean, body)
