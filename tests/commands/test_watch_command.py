"""onecycle watch in a terminal: all columns where it is wide, the chief ones where it is narrow."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from onecycle.commands.app import main
from onecycle.commands.watch import drawn
from onecycle.records.live import Standing

LONG = Standing(
    "grid/cifar10-resnet20-wide-3", "run", "running", Path("x"), 1234, 5000, 3, 10.0, 12.3, 0.5123, "accuracy", 0.8123,
    306.2, "80 epochs: about 91 %",
)  # fmt: skip
OTHER = Standing("b", "run", "stale", Path("y"), 10, None, age=185.0)


def lines(standing, width: int, height: int | None = 30) -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(drawn(standing, width, height))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_wide_and_narrow():
    wide = lines([LONG, OTHER], 160)
    heads = "run state progress epoch updates updates/s loss validation left says"
    assert wide[0].split() == heads.split()
    assert "━━┄┄┄┄┄┄┄┄  25%" in wide[1] and "1,234/5,000" in wide[1] and wide[1].endswith("80 epochs: about 91 %")
    assert "accuracy 81.23 %" in wide[1] and "5 min 06 s" in wide[1] and "3/10" in wide[1]
    assert wide[2].split()[:2] == ["b", "stale"] and wide[2].endswith("no word for 3 min 05 s")
    narrow = lines([LONG, OTHER], 60)
    assert max(map(len, narrow)) <= 60 and "running" in narrow[1] and "accuracy 81.23 %" in narrow[1]
    assert "cifar10-resnet20-wide-3" in narrow[1] or "…" in narrow[1]


def test_the_stage_that_a_run_is_in_has_a_column():
    said = lines([replace(OTHER, stage="1/2 head"), LONG], 160)
    assert said[0].split()[:4] == ["run", "state", "stage", "progress"]
    assert said[1].split()[:4] == ["b", "stale", "1/2", "head"]
    assert "stage" not in lines([LONG], 160)[0]


def test_what_there_is_no_room_for_is_counted():
    many = [Standing(f"run-{i}", "run", "finished", Path("x"), 5, 5) for i in range(40)]
    said = lines(many, 100, 20)
    assert len(said) <= 20 and said[-1].startswith("and ") and said[-1].endswith(" more, which ended before")
    assert lines([], 80) == ["nothing here yet: a run that begins appears by itself"]


def test_comparisons_have_their_interim_means():
    rows = [
        {"policy": "one_cycle", "epochs": 5, "status": "finished", "valid_accuracy": 0.5},
        {"policy": "one_cycle", "epochs": 5, "status": "finished", "valid_accuracy": 0.7},
        {"policy": "one_cycle", "epochs": 5, "status": "waiting"},
    ]
    said = "\n".join(lines([Standing("pairs", "comparison", "running", Path("x"), 2, 3, rows=rows)], 100))
    assert "2/3 runs" in said and "pairs, so far:" in said and "60.00 %" in said


def test_the_command_looks_once_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "digits", "--model", "mlp", "--budget", "2 updates", "--lr-max", "0.01", "--no-report", "--quiet"])
    capsys.readouterr()
    main(["watch"])
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["digits-mlp-1", "finished"]
    main(["watch", "--json"])
    (one,) = json.loads(capsys.readouterr().out)["standing"]
    assert (one["name"], one["done"], one["total"]) == ("digits-mlp-1", 2, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        ([".", "--every", "0"], "every is seconds from one look to the next"),
        ([".", "--port", "80"], "--port is that of the page: give --web too"),
        ([".", "--web", "--json"], "leave out --once and --json"),
        (["nowhere", "--web"], "there is no folder nowhere"),
    ],
)
def test_what_the_command_refuses(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["watch", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err
