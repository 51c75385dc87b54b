from __future__ import annotations

import math
from datetime import timedelta

import pytest

from onecycle.errors import ConfigError
from onecycle.schedules.budget import Budget

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("value", "budget"),
    [
        (10, Budget(epochs=10)),
        (0.5, Budget(epochs=0.5)),
        ("10", Budget(epochs=10)),
        (".5", Budget(epochs=0.5)),
        ("2.", Budget(epochs=2)),
        ("1 epoch", Budget(epochs=1)),
        ("2.5 epochs", Budget(epochs=2.5)),
        ("10epochs", Budget(epochs=10)),
        ("500 updates", Budget(updates=500)),
        ("1 Update", Budget(updates=1)),
        ("90s", Budget(seconds=90)),
        ("90 sec", Budget(seconds=90)),
        ("5m", Budget(seconds=300)),
        (" 5 MIN ", Budget(seconds=300)),
        ("1.5h", Budget(seconds=5400)),
        ("1h30m", Budget(seconds=5400)),
        ("1 min 30 s", Budget(seconds=90)),
        ("10,000 updates", Budget(updates=10000)),
        (timedelta(minutes=2), Budget(seconds=120)),
        (Budget(updates=3), Budget(updates=3)),
    ],
)
def test_budgets_that_can_be_read(value, budget):
    assert Budget.parse(value) == budget


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "5x",
        "m",
        "five",
        "-1",
        "-5m",
        "1e3",
        "nan",
        "inf",
        "1h3",
        "5 m m",
        "2,5 epochs",
        True,
        None,
        [5],
        b"5m",
    ],
)
def test_what_cannot_be_read_is_named_with_what_can(value):
    with pytest.raises(ConfigError) as error:
        Budget.parse(value)
    assert f"cannot read the budget {value!r}: give a number of epochs" in str(error.value)
    assert '"500 updates"' in str(error.value) and '"5m"' in str(error.value)


@pytest.mark.parametrize("value", [0, -1, 0.0, NAN, INF, -INF, "0", "0 epochs", "1" + "0" * 400 + " epochs"])
def test_epochs_are_finite_and_above_zero(value):
    with pytest.raises(ConfigError, match="epochs is a finite number above 0; received"):
        Budget.parse(value)


@pytest.mark.parametrize("value", ["0s", "0.0 h", timedelta(0), timedelta(seconds=-5)])
def test_time_is_above_zero(value):
    with pytest.raises(ConfigError, match="seconds is a finite number above 0; received"):
        Budget.parse(value)


def test_updates_are_whole():
    with pytest.raises(ConfigError, match=r"whole numbers; received '1\.5 updates'"):
        Budget.parse("1.5 updates")
    with pytest.raises(ConfigError, match="updates is a whole number of at least 1; received 0"):
        Budget.parse("0 updates")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of epochs, updates and seconds; received none"),
        ({"epochs": 1, "seconds": 5}, "one of epochs, updates and seconds; received {'epochs': 1, 'seconds': 5}"),
        ({"epochs": True}, "epochs is a finite number above 0; received True"),
        ({"epochs": "5"}, "epochs is a finite number above 0; received '5'"),
        ({"seconds": NAN}, "seconds is a finite number above 0; received nan"),
        ({"updates": 2.5}, "updates is a whole number of at least 1; received 2.5"),
        ({"updates": INF}, "updates is a whole number of at least 1; received inf"),
    ],
)
def test_one_quantity_that_makes_sense(given, message):
    with pytest.raises(ConfigError) as error:
        Budget(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("budget", "per_epoch", "updates"),
    [
        ("10 epochs", 7, 70),
        ("0.5 epochs", 7, 4),  # 3.5 to the even neighbour
        ("1.5 epochs", 10, 15),
        ("0.001 epochs", 10, 1),  # at least one
        ("500 updates", 7, 500),
        ("500 updates", None, 500),
        ("5m", 7, None),
        ("5m", None, None),
    ],
)
def test_number_of_updates(budget, per_epoch, updates):
    assert Budget.parse(budget).total_updates(per_epoch) == updates


def test_epochs_of_unknown_length_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"no length.*in updates \(\"500 updates\"\) or in time \(\"5m\"\)"):
        Budget(epochs=2).total_updates(None)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (1, "1 epoch"),
        (10, "10 epochs"),
        (0.5, "0.5 epochs"),
        ("1 updates", "1 update"),
        ("50000 updates", "50,000 updates"),
        ("300 s", "5 min"),
        ("1.5 m", "1 min 30 s"),
        ("2h", "2 h"),
        ("7300s", "7300 s"),  # to the minute it would be another time
        ("59.97s", "59.97 s"),
        ("0.125s", "0.125 s"),
    ],
)
def test_its_words_can_be_read_again(budget, words):
    assert str(Budget.parse(budget)) == words and Budget.parse(words) == Budget.parse(budget)
