"""TensorBoard's event files, read back by TensorBoard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tracking_makers import UPDATES, Broken, Series, begun_and_killed, fit, recorded, without_result

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


def scalars(folder: Path) -> Series:
    events = read(folder)
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def in_single_precision(series: Series) -> Series:
    return {name: [(step, float(np.float32(value))) for step, value in values] for name, values in series.items()}


def text(folder: Path, name: str) -> list[str]:
    return [e.tensor_proto.string_val[0].decode() for e in read(folder).Tensors(f"{name}/text_summary")]


def test_a_run_has_what_its_files_have(tmp_path):
    result = fit("tensorboard", tmp_path / "run")
    there = scalars(tmp_path / "run" / "tensorboard")
    expected = recorded(tmp_path / "run")
    assert [step for step, _ in expected["loss"]] == list(range(UPDATES)) and len(expected["train/loss"]) == 3
    assert without_result(there) == in_single_precision(expected)
    last = UPDATES - 1
    assert there["final/valid/accuracy"] == [(last, float(np.float32(result.valid["accuracy"])))]
    assert there["final/lr_max"] == [(last, float(np.float32(0.05)))]
    (config,) = text(tmp_path / "run" / "tensorboard", "config")
    said = json.loads(config.strip("`").removeprefix("json\n"))
    assert said["resolved"]["lr_max"] == 0.05 and said["config"] == {"budget": "3 epochs"} and said["versions"]["torch"]
    assert text(tmp_path / "run" / "tensorboard", "status") == ["finished"]
    assert "18 updates are few" in text(tmp_path / "run" / "tensorboard", "notes")[0]
    assert sorted(read(tmp_path / "run" / "tensorboard").Tags()["images"]) == ["curves", "policy"]


def test_what_is_measured_within_an_epoch_is_there_once(tmp_path):
    fit("tensorboard", tmp_path / "run", evaluate_every=3)
    there = scalars(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in there["valid/loss"]] == [2, 5, 8, 11, 14, 17]
    assert without_result(there) == in_single_precision(recorded(tmp_path / "run"))


def test_a_run_that_broke_off_goes_on_in_the_same_place(tmp_path):
    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "run", break_at=14)  # after the checkpoint at the end of the first epoch
    place = tmp_path / "run" / "tensorboard"
    assert max(step for step, _ in scalars(place)["loss"]) == 14 and text(place, "status") == ["failed"]
    fit("tensorboard", tmp_path / "run", resume=True)
    assert without_result(scalars(place)) == in_single_precision(recorded(tmp_path / "run"))
    assert text(place, "status") == ["failed", "finished"] and len(text(place, "config")) == 1


def test_a_run_whose_process_is_killed_goes_on_in_the_same_place(tmp_path):
    begun_and_killed("tensorboard", tmp_path / "run")
    fit("tensorboard", tmp_path / "run", resume=True)
    assert without_result(scalars(tmp_path / "run" / "tensorboard")) == in_single_precision(recorded(tmp_path / "run"))


def test_what_goes_on_within_the_second_of_the_kill_is_read_after_it(tmp_path, monkeypatch):
    """Event files are read in the order of their names: the second, then the process, whose numbers are in no order."""
    monkeypatch.setattr("os.getpid", lambda: 2)
    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "run", break_at=14)
    monkeypatch.setattr("os.getpid", lambda: 1)
    fit("tensorboard", tmp_path / "run", resume=True)
    assert without_result(scalars(tmp_path / "run" / "tensorboard")) == in_single_precision(recorded(tmp_path / "run"))


def test_what_got_lost_before_the_checkpoint_is_sent_again(tmp_path):
    with pytest.raises(Broken):
        fit("tensorboard", tmp_path / "run", break_at=14)
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    fit(None, tmp_path / "run", resume=True)  # the run itself says where it is tracked
    there = scalars(tmp_path / "run" / "tensorboard")
    assert without_result(there) == in_single_precision(recorded(tmp_path / "run"))


def test_a_run_is_tracked_from_its_first_update_where_that_is_asked_for_later(tmp_path):
    with pytest.raises(Broken):
        fit(None, tmp_path / "run", break_at=14)
    fit("tensorboard", tmp_path / "run", resume=True)
    there = scalars(tmp_path / "run" / "tensorboard")
    assert without_result(there) == in_single_precision(recorded(tmp_path / "run"))


def test_a_fit_without_a_folder_is_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit("tensorboard", None)
    (place,) = (tmp_path / "runs" / "tensorboard").iterdir()
    assert [step for step, _ in scalars(place)["loss"]] == list(range(UPDATES))
