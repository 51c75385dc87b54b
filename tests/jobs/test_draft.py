"""onecycle init: a file of options for the data at hand, which trains as it is and says what was found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from data_makers import image_folder

from onecycle import CheckpointError, DataError, Job
from onecycle.commands.app import main
from onecycle.jobs.draft import draft


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def houses(name: str = "houses.csv") -> str:
    rows = [f"{40 + i % 60},{1 + i % 5},{'flat' if i % 3 else 'house'},{1000 * (40 + i % 60) + i}" for i in range(120)]
    Path(name).write_text("\n".join(["area,rooms,kind,price", *rows]))
    return name


def uncommented(text: str) -> str:
    """The options that are behind a #, in front of it."""
    return "\n".join(re.sub(r"^# (?=\w+ = )", "", line) for line in text.splitlines())


def test_a_folder_of_photos():
    image_folder(Path("pets"), each=12, shape=(12, 20, 3))
    text = draft("pets")
    assert text == Path("onecycle.toml").read_text() and max(map(len, text.splitlines())) <= 100
    assert text.startswith("# pets: images, each 3 x 12 x 20 as the model sees it\n# training: 22 samples\n")
    assert "# 2 classes: cat (11) and dog (11)\n" in text and "# augment = [" in text and "# target" not in text
    values = tomllib.loads(text)
    assert values == {"data": "pets", "model": "resnet20", "budget": "10 epochs"}
    assert Job.from_dict(tomllib.loads(uncommented(text))).batch_size == 8, "every option can be used as it is"


def test_a_table_is_predicted_in_its_last_column_and_the_file_trains(capsys):
    main(["init", houses(), "--out", "price.toml"])
    assert capsys.readouterr().out == "written: price.toml\nTo train: onecycle train price.toml\n"
    text = Path("price.toml").read_text()
    assert "# price is the last column: name another target below" in text and "# a regression: targets from" in text
    assert tomllib.loads(text)["target"] == "price"
    Job.from_dict({**tomllib.loads(uncommented(text)), "leave_out": ()})
    main(["train", "price.toml", "--budget", "2 updates", "--out", "run", "--no-report"])
    assert "The run is in run" in capsys.readouterr().out
    main(["init", "houses.csv", "--target", "kind", "--out", "kind.toml", "--show"])
    shown = capsys.readouterr().out
    assert Path("kind.toml").read_text() in shown and "is the last column" not in shown
    assert "# 2 classes: flat (" in shown


def test_nothing_is_overwritten_and_nothing_is_written_for_what_cannot_be_used(capsys):
    Path("onecycle.toml").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already, and is left as it is"):
        draft("digits")
    assert Path("onecycle.toml").read_text() == "mine"
    Path("words.csv").write_text("x,word\n" + "\n".join(f"{i},w{i}" for i in range(90)))
    with pytest.raises(DataError, match=r"word, the last column, was taken as the target: --target NAME"):
        draft("words.csv", "words.toml")
    for words in (
        ["init", "nowhere", "--out", "new.toml"],
        ["init", "words.csv", "--target", "y", "--out", "new.toml"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["init", *words, "--out", "new.toml"])
        assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: ")
    assert not Path("new.toml").exists() and not Path("words.toml").exists()
