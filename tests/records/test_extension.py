"""What an extension goes on from: the end of a finished run, and what cannot be one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from onecycle import CheckpointError, ConfigError, Learner, Policy, Supervised, TrainState
from onecycle.records import extension
from onecycle.records.extension import Extended, finished_run, share_of_peak
from onecycle.records.files import CHECK, RUN
from onecycle.schedules.budget import Budget

X = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def learner(**options) -> Learner:
    torch.manual_seed(1)
    options = {"optimizer": torch.optim.SGD, "batch_size": 16, "verbose": False, **options}
    return Learner(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1)), (X, Y), **options)


def files(folder: Path) -> dict:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def first(tmp_path) -> Path:
    learner().fit(3, lr_max=0.1, out=tmp_path / "first")
    return tmp_path / "first"


def test_the_end_of_a_run(first):
    end = finished_run(first)
    assert (end.run, end.updates, end.passes, end.epochs, end.lr_max, end.layers) == (str(first), 15, 3, 3.0, 0.1, ())
    assert end.sha256 is not None and len(end.sha256) == 64
    assert Extended.from_dict(end.to_dict()) == end


def test_a_run_of_an_earlier_version_is_counted_by_its_records(first):
    end, record = finished_run(first), RUN.read(first)
    del record["position"]
    RUN.write(first, record)
    assert finished_run(first) == end


def test_from_disk_it_is_as_in_memory_but_for_what_the_optimizer_remembers(first, tmp_path):
    """Without momentum there is nothing to remember: the weights, the orders and the draws are the same, to the bit."""
    before, whole, again = files(first), learner(), learner()
    whole.fit(3, lr_max=0.1)
    whole.extend(2)
    again.extend(2, run=first, out=tmp_path / "more")
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    drop = [[{k: v for k, v in row.items() if k != "seconds"} for row in one.history.steps] for one in (whole, again)]
    assert drop[0] == drop[1] and [row["fit"] for row in drop[0]] == [0] * 15 + [1] * 10
    assert files(first) == before, "and the run before is untouched"


def test_batches_come_in_an_order_of_their_own(first):
    fresh, seen = learner(), []
    fresh.state.at.epoch = 3
    order = [batch[0].clone() for batch in fresh.train.epoch(3)]
    more = learner()
    more.extend(1, run=first, observers=[seen.append])
    assert more.state.at.epoch == 4 and more.state.step == 20
    assert not torch.equal(order[0], next(iter(fresh.train.epoch(0)))[0])


def test_extended_again_and_again(first, tmp_path):
    learner().extend(2, run=first, out=tmp_path / "second")
    last = learner()
    last.extend(1, run=tmp_path / "second", out=tmp_path / "third")
    end = finished_run(tmp_path / "third")
    assert (end.updates, end.passes, end.epochs, end.lr_max) == (30, 6, 6.0, 0.1)
    assert [row["fit"] for row in last.history.epochs] == [0, 0, 0, 1, 1, 2]
    assert last.notes[-2].startswith(
        f"goes on from {tmp_path / 'second'}: 5 epochs and 25 updates before, 6 epochs and 30"
    )


def test_in_memory_the_peak_and_its_factors_by_layer_are_those_of_before():
    learn = learner()
    learn.fit(1, lr_max=slice(0.01, 0.1))
    assert learn.extend(1).lr_max == 0.1
    assert len({group["lr"] for group in learn.optimizer.param_groups}) > 1
    learn.extend(1, 0.05)
    assert len({group["lr"] for group in learn.optimizer.param_groups}) == 1
    assert learn.extend(budget="12 updates").lr_max == 0.05, "two thirds of what was before, nearly"


def test_by_layer_from_disk_too(tmp_path):
    learner().fit(1, lr_max=slice(0.01, 0.1), out=tmp_path / "sliced")
    learn = learner()
    learn.extend(1, run=tmp_path / "sliced")
    assert len({group["lr"] for group in learn.optimizer.param_groups}) > 1


def cut_at(step: int):
    def power_cut(event):
        if getattr(event, "step", 0) == step:
            raise KeyError("power cut")

    return power_cut


@pytest.mark.parametrize("gone", [False, True])
def test_one_that_was_cut_goes_on_without_the_run_before(gone, first, tmp_path):
    whole, again = learner(), learner()
    whole.extend(3, run=first, out=tmp_path / "whole")
    with pytest.raises(KeyError):
        learner().extend(3, run=first, out=tmp_path / "cut", observers=[cut_at(7)])
    if gone:
        first.rename(tmp_path / "elsewhere")
    again.extend(3, out=tmp_path / "cut", resume=True)
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    assert RUN.read(tmp_path / "cut")["position"] == RUN.read(tmp_path / "whole")["position"]


def test_one_that_was_cut_before_its_first_checkpoint_begins_anew(first, tmp_path):
    whole, again = learner(), learner()
    whole.extend(3, run=first, out=tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    RUN.update(tmp_path / "cut", status="running")
    again.extend(3, out=tmp_path / "cut", resume=True)
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    with (first / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(CheckpointError, match=r"before its first checkpoint, and .*is not what it was: remove"):
        learner().extend(3, out=tmp_path / "cut", resume=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": "running"}, r"is not finished: it is under way in another process, or was killed.*resume=True"),
        ({"status": "interrupted"}, r"is not finished: it was interrupted.*finish it by fit\(.*, resume=True\)"),
        ({"status": "failed", "error": "loss is NaN"}, r"failed \(loss is NaN\), and an extension.*or begin a new run"),
        ({"facts": {"kind": "image"}}, r"is not finished.*finish it by onecycle train --resume"),
        ({"schema": 99}, "pip install --upgrade onecycle"),
    ],
)
def test_what_is_not_finished_cannot_be_extended(fields, said, first):
    RUN.write(first, {**RUN.read(first), **fields})
    with pytest.raises(CheckpointError, match=said):
        learner().extend(1, run=first)


def test_what_is_no_run_or_has_no_weights(first, tmp_path):
    with pytest.raises(CheckpointError, match=r"no run in .*it has no run\.json\).*first"):
        finished_run(tmp_path / "frist")
    CHECK.write(tmp_path / "checked", {})
    with pytest.raises(CheckpointError, match="holds a check, and what can be extended is one run"):
        finished_run(tmp_path / "checked")
    (first / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, which an extension begins with"):
        finished_run(first)


def test_another_model_or_other_options_are_named(first):
    for options, said in (
        ({"batch_size": 20}, "batch_size: 16, now 20"),
        ({"optimizer": "adamw"}, "optimizer: 'SGD', now"),
    ):
        learn = learner(**options)
        with pytest.raises(CheckpointError, match=f"cannot be extended like this.*{said}"):
            learn.extend(1, run=first)
        assert learn.state.step == 0
    other = Learner(nn.Linear(3, 1), (X, Y), optimizer=torch.optim.SGD, batch_size=16, verbose=False)
    with pytest.raises(CheckpointError, match="parameters: 21, now 4"):
        other.extend(1, run=first)


def test_what_learners_cannot_extend(first, tmp_path):
    learn = learner()
    with pytest.raises(ConfigError, match="there is nothing to extend: fit first, or give run=FOLDER"):
        learn.extend(1)
    with pytest.raises(ConfigError, match="give epochs or a budget, one of them"):
        learn.extend(run=first)
    with pytest.raises(CheckpointError, match="holds another run"):
        learn.extend(1, run=first, out=first)
    with pytest.raises(CheckpointError, match="is no extension: go on with it by"):
        learn.extend(1, out=first, resume=True)
    learn.fit("3 updates", lambda updates: Policy({"lr": lambda progress: 0.01}))
    with pytest.raises(ConfigError, match="give lr_max: what is extended had no peak"):
        learn.extend(1)
    with pytest.raises(ConfigError, match="was trained before: give one as new"):
        learn.extend(1, run=first)
    assert learn.extend(1, 0.05).lr_max == 0.05


def test_a_fit_that_was_cut_is_no_end():
    learn = learner()
    learn.fit(1, lr_max=0.1)
    with pytest.raises(KeyError):
        learn.fit(1, lr_max=0.1, observers=[cut_at(2)])
    with pytest.raises(ConfigError, match="there is nothing to extend"):
        learn.extend(1)


def test_a_loss_with_parameters_is_extended_in_memory_alone(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return ((outputs * self.scale - targets) ** 2).mean()

    learn = learner(loss=Scaled())
    learn.fit(1, lr_max=0.01, out=tmp_path / "scaled")
    learn.extend(1)
    with pytest.raises(CheckpointError, match="the loss has parameters of its own"):
        learner(loss=Scaled()).extend(1, run=tmp_path / "scaled")


def test_a_short_extension_has_a_lower_peak_and_the_next_one_not(first, tmp_path):
    short = learner()
    assert short.extend(budget="3 updates", run=first, out=tmp_path / "short").lr_max == pytest.approx(
        0.1 * 1.5 * 3 / 15
    )
    assert any(note.endswith("; so short an extension goes up to 30 % of the peak") for note in short.notes)
    assert finished_run(tmp_path / "short").lr_max == 0.1 and short.extend(4).lr_max == 0.1
    assert learner().extend(budget="3 updates", lr_max=0.1, run=first).lr_max == 0.1, "as it is told"
    told = learner()
    told.extend(3, 0.05, run=first, out=tmp_path / "told")
    assert finished_run(tmp_path / "told").lr_max == 0.05
    assert [share_of_peak(more, 15) for more in (1, 5, 10, 15, 150)] == [0.1, 0.5, 1, 1, 1]


def test_the_sentence_leaves_out_what_is_not_known():
    end = Extended(None, 400, 20, 20.0, 0.1)
    assert end.goes_on(Budget(seconds=60), 20) == "goes on from the fit before: 20 epochs and 400 updates before"
    assert end.goes_on(Budget(updates=10), None) == "goes on from the fit before: 20 epochs and 400 updates before"


def test_prepare_puts_the_position_at_the_end(first):
    model = learner().model
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), Supervised(nn.functional.mse_loss))
    extension.prepare(state, {}, first, None, lambda path: None)
    assert (state.at.step, state.at.epoch, state.at.batch, state.begun) == (15, 3, 0, None)
