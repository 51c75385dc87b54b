"""What is sent when, and what becomes of a tracker's errors: with a tracker that only writes down what it gets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ranks_makers import on_ranks
from tracking_makers import UPDATES, Broken, Written, fit, learner, recorded

from onecycle import ConfigError, EpochEnd, Job, Update, run
from onecycle.errors import MissingDependency, StopTraining
from onecycle.jobs.job import asked_for
from onecycle.records.files import RUN, read_jsonl
from onecycle.tracking import trackers
from onecycle.tracking.tracker import Known, TrackedRun, without_credentials
from onecycle.tracking.trackers import CHECK, OPEN, Sending
from onecycle.tracking.values import EPOCH, RESULT, UPDATE, Row, Rows, SentTable
from onecycle.training.options import TRACKERS, TrainingOptions


@pytest.fixture
def opened(monkeypatch):
    """The trackers that are opened, each in place of TensorBoard."""
    made: list[Written] = []

    def open_one(run: TrackedRun) -> Written:
        made.append(Written(run, *open_one.options))
        return made[-1]

    open_one.options = ()
    made_with = open_one
    monkeypatch.setitem(OPEN, "tensorboard", open_one)
    monkeypatch.setattr(trackers, "check_host", lambda name: None)
    monkeypatch.setitem(CHECK, "tensorboard", lambda run: None)
    return made, made_with


def test_there_is_one_for_each_name():
    assert tuple(OPEN) == tuple(CHECK) == TRACKERS


def test_rows_come_in_the_order_of_the_training_and_the_result_last(opened, tmp_path):
    fit("tensorboard", tmp_path / "run")
    ((written,), _) = opened
    assert written.steps(UPDATE) == list(range(UPDATES)) and written.steps(EPOCH) == [5, 11, 17]
    kinds = [row.kind for row in written.rows if row.kind != RESULT]
    assert kinds == ([UPDATE] * 6 + [EPOCH]) * 3
    assert written.rows[-1].kind == RESULT and written.status == "finished"
    assert {name: [value for step, value in values] for name, values in recorded(tmp_path / "run").items()} == {
        name: [row.values[name] for row in written.rows if name in row.values] for name in recorded(tmp_path / "run")
    }


def test_tracking_changes_no_training_and_no_configuration(opened, tmp_path):
    fit("tensorboard", tmp_path / "one")
    fit(None, tmp_path / "two")
    rows = [read_jsonl(tmp_path / name / "steps.jsonl") for name in ("one", "two")]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]
    assert asked_for(Job("digits", track="wandb")) == asked_for(Job("digits"))
    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "three", break_at=3)
    fit("none", tmp_path / "three", resume=True)
    assert len(opened[0]) == 2


def test_updates_are_sent_a_few_at_a_time(opened, tmp_path):
    sizes: list[int] = []
    made = learner("tensorboard")
    made.fit("130 updates", lr_max=0.05, observers=[lambda event: sizes.append(len(opened[0][0].rows))])
    assert 7 <= max(b - a for a, b in pairwise(sizes)) <= 60  # the 50 that are read at once, and ends of epochs
    assert opened[0][0].steps(UPDATE) == list(range(130))


def test_a_resumed_run_gets_what_is_missing_and_nothing_twice(opened, tmp_path):
    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "run", break_at=14)
    made, open_one = opened
    assert made[0].status == "failed" and made[0].run.before is None
    open_one.options = (Known(9, 6),)  # it has one epoch more than the checkpoint, and three updates
    fit(None, tmp_path / "run", resume=True)
    assert made[1].run.before == {"id": "it"} and made[1].run.updates == 6
    assert made[1].steps(UPDATE) == list(range(9, UPDATES)) and made[1].steps(EPOCH) == [11, 17]


def test_an_error_costs_nothing_where_the_tracker_is_well_again():
    sending = Sending("it", Written(fails=1))
    sending.send([Row(0, UPDATE, {"loss": 1.0})], now=lambda: 0.0)
    sending.send([Row(1, UPDATE, {"loss": 0.5})], now=lambda: 0.0)
    assert [row.step for row in sending.tracker.rows] == [0, 1] and sending.end("finished") is None


def test_a_tracker_that_hangs_before_its_error_takes_a_tenth_of_the_time():
    clock, tried = [0.0], []

    class Away(Written):
        def log(self, rows) -> None:
            tried.append(clock[0])
            clock[0] += 10.0
            raise ConnectionError("server away")

    sending = Sending("it", Away())
    for second in range(0, 300):
        clock[0] = max(clock[0], float(second))
        sending.send([Row(second, UPDATE, {"loss": 1.0})], now=lambda: clock[0])
    assert tried == [0.0, 100.0, 200.0]


def test_what_a_tracker_never_got_is_said_with_its_count(opened, tmp_path):
    opened[1].options = (Known(), 10**9)
    result = fit("tensorboard", tmp_path / "run")
    assert result.updates == UPDATES
    (note,) = [note for note in RUN.read(tmp_path / "run")["notes"] if note.startswith("tensorboard did not get")]
    assert note == (
        "tensorboard did not get all of this run: 18 updates, 3 epochs and 1 result (OSError: No space left on device)"
    )


def test_a_tracker_that_cannot_begin_stops_a_new_run_before_its_first_update(opened, tmp_path, monkeypatch):
    def refuse(run) -> None:
        raise OSError("unable to open database file")

    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "begun", break_at=8)
    monkeypatch.setitem(OPEN, "tensorboard", refuse)
    with pytest.raises(ConfigError, match=r"cannot begin a run: OSError: unable to open database file\. Mend"):
        fit("tensorboard", tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    assert fit(None, tmp_path / "begun", resume=True).updates == UPDATES  # one that was begun goes on
    assert "This run goes on without it" in "".join(RUN.read(tmp_path / "begun")["notes"])


@pytest.mark.parametrize(
    "raised, said",
    [
        (OSError("no answer from http://ada:secret@host:5000"), "tensorboard cannot begin a run: OSError: no answer"),
        (MissingDependency("pip install --upgrade tensorboard"), "pip install --upgrade"),
    ],
)
def test_a_tracker_that_cannot_begin_is_said_before_the_pilots(raised, said, opened, tmp_path, monkeypatch):
    def refuse(tracked: TrackedRun) -> None:
        raise raised

    def searched(*arguments, **keywords) -> None:
        raise AssertionError("pilots were made")

    monkeypatch.setitem(CHECK, "tensorboard", refuse)
    monkeypatch.setattr("onecycle.fits.run.search_of", searched)
    monkeypatch.setattr("onecycle.jobs.run.search_balance", searched)
    errors = []
    for begin in (
        lambda: learner("tensorboard").fit(3, out=tmp_path / "run"),
        lambda: run(Job("digits", model="mlp", budget="3 epochs", track="tensorboard", balance=True), tmp_path / "it"),
    ):
        with pytest.raises(type(raised) if isinstance(raised, MissingDependency) else ConfigError) as caught:
            begin()
        errors.append(str(caught.value))
    assert all(error.startswith(said) and "secret" not in error for error in errors)
    assert not opened[0] and not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "it").exists()


def test_what_is_said_and_kept_of_an_address_has_no_credentials(opened, tmp_path, monkeypatch):
    def away(*arguments) -> None:
        raise ConnectionError("no answer from postgresql://ada:se/cr@et@host/runs")

    monkeypatch.setattr(Written, "place", "https://ada:secret@host:5000/x?write_token=secret")
    monkeypatch.setattr(Written, "log", away)
    made = learner("tensorboard")
    made.fit(3, lr_max=0.05, out=tmp_path / "run")
    assert "tracked by tensorboard: https://host:5000/x" in made.notes
    notes = RUN.read(tmp_path / "run")["notes"]
    assert notes[-1].endswith("(ConnectionError: no answer from postgresql://host/runs)")
    assert not [path for path in (tmp_path / "run").glob("*.json*") if b"secret" in path.read_bytes()]


@pytest.mark.parametrize(
    "address, public",
    [
        ("https://token@host", "https://host"),
        ("postgresql+psycopg2://ada:p@ss:w/rd@host:5432/runs?password=x", "postgresql+psycopg2://host:5432/runs"),
        ("https://host:5000/a", "https://host:5000/a"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_addresses_without_credentials(address, public):
    assert without_credentials(address) == public


def test_a_host_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr("onecycle.tracking.tracker.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"track='wandb' needs the package wandb: pip install wandb"):
        learner("wandb")


@pytest.mark.parametrize(
    "given", ["wandb,trackio", ("wandb", "trackio"), ["wandb", "trackio", "wandb"], "wandb, trackio"]
)
def test_names_of_trackers(given):
    assert TrainingOptions(track=given).track == ("wandb", "trackio")


def test_what_is_measured_at_an_end_that_was_asked_for_comes_after_the_updates(opened):
    def end(event) -> None:
        if isinstance(event, EpochEnd) and event.epoch == 1:
            raise StopTraining("enough")

    made = learner("tensorboard", evaluate_every=5)
    made.fit(3, lr_max=0.05, observers=[end])
    (written,) = opened[0]
    assert [row.step for row in written.rows] == sorted(row.step for row in written.rows)
    measured = [(row.step, row.values["valid/loss"]) for row in written.rows if "valid/loss" in row.values]
    assert measured == [(step, valid["loss"]) for step, valid in made.history.measured()]
    assert [step for step, _ in measured] == [4, 9, 11]


def test_of_several_ranks_the_main_one_sends():
    first, other = on_ranks("import tracking_makers; result(tracking_makers.sent_by_this_rank())", 2)
    assert first == list(range(UPDATES)) and other is None


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="unknown tracker 'tensorbord': did you mean tensorboard"):
        TrainingOptions(track="tensorbord")
    with pytest.raises(ConfigError, match="track has names, such as"):
        TrainingOptions(track=3)


def test_a_folder_with_the_name_of_a_host_is_none(tmp_path, monkeypatch):
    (tmp_path / "mlflow").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(MissingDependency, match="pip install mlflow"):
        learner("mlflow")


def test_what_is_measured_within_an_epoch_is_not_sent_with_its_end():
    rows = Rows()
    rows.update({"step": 3, "loss": 1.0, "valid_loss": 0.5})
    at_end = {"epoch": 0, "step": 3, "train_loss": 1.0, "valid_loss": 0.5, "samples": 8, "seconds": 0.0}
    assert rows.epoch(at_end).values == {"train/loss": 1.0, "epoch_seconds": 0.0}
    assert rows.epoch({**at_end, "step": 5}).values["valid/loss"] == 0.5


def test_pilots_of_a_peak_and_of_settings_as_a_table():
    peak = {"lr_max": 0.1, "updates": 30, "loss": 1.0, "valid": {"loss": 1.0, "accuracy": 0.6}, "of": 900, "lost": None}
    setting = {"setting": {"dropout": 0.1}, "lr_max": 0.1, "updates": 30, "loss": 0.9, "why": "better"}
    assert SentTable.of_pilots([peak, setting]).rows == [
        [0.1, 30, 1.0, None, 0.6, None, None], [0.1, 30, 0.9, None, None, "better", '{"dropout": 0.1}'],
    ]  # fmt: skip


def test_pilots_and_range_tests_are_there_from_the_beginning(opened):
    made = learner("tensorboard")
    made.range_test(updates=64)
    pilots = [{"lr_max": 0.1, "updates": 30, "loss": 1.0, "valid": {"loss": 1.0}, "of": 900, "lost": None}]
    record = {"config": {}, "resolved": {"search": {"pilots": pilots}}}
    with made.tracking as tracking:
        tracking.start(record, None, made.history, [])
    (written,) = opened[0]
    assert written.made[:3] == [("pilots", 0), ("range_test", 0), ("range_test_result", 0)]
    assert written.run.config["resolved"] == {} and not written.rows


def test_a_learner_of_several_fits_has_a_run_for_each(opened):
    made = learner("tensorboard")
    made.fit(1, lr_max=0.05)
    made.fit(2, lr_max=0.05)
    assert [written.steps(UPDATE) for written in opened[0]] == [list(range(6)), list(range(12))]
    assert [written.status for written in opened[0]] == ["finished", "finished"]


def test_a_rescue_is_sent_with_its_update(opened):
    def lose(event) -> None:
        if isinstance(event, Update) and event.step == 60:
            for parameter in made.model.parameters():
                parameter.data.fill_(float("nan"))

    made = learner("tensorboard")
    result = made.fit(20, lr_max=0.05, observers=[lose])
    rescues = [row for row in opened[0][0].rows if "rescue/factor" in row.values]
    assert (
        len(rescues) == len(result.rescues) == 1 and rescues[0].values["rescue/back_to"] == result.rescues[0]["back_to"]
    )
    assert ("rescues", 119) in opened[0][0].made
