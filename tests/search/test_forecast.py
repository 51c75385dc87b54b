"""Forecasts from power laws made by hand, and by simulation."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from onecycle.errors import ConfigError
from onecycle.search import forecast as module
from onecycle.search.forecast import FACTORS, Forecast, forecast
from onecycle.search.pilots import Pilot


def made_of(accuracy: float | None, updates: int = 30, lr: float = 0.1, **others: float) -> Pilot:
    lost = "the loss was lost after 3 updates" if accuracy is None else None
    valid = {} if accuracy is None else {"loss": 1.0, "accuracy": accuracy, **others}
    return Pilot(lr, updates, None if accuracy is None else 1.0, valid, lost=lost)


def said(pilot: float = 0.5, end: float = 0.9, **given) -> Forecast:
    keywords = {"passes": 4.0, "budget": 2000, "samples": 5000, **given}
    return forecast([made_of(pilot)], {"loss": 0.3, "accuracy": end}, 1900, **keywords)


def test_of_a_power_law_by_hand(monkeypatch):
    """From 4 e to e in 16 times the updates: p = 1/2. The error goes on with sqrt(1/2) sqrt(p) = 1/2 of the time."""
    monkeypatch.setattr(module, "GOES_ON", math.sqrt(0.5))
    monkeypatch.setattr(module, "WORN", 0.0)
    pilot = Pilot(0.1, 100, 0.4, {"loss": 0.4})
    made = forecast([pilot], {"loss": 0.1}, 1600, passes=2.0)
    assert made.measure == "loss" and made.power == pytest.approx(0.5) and made.n == 1
    assert [e.value for e in made.expected] == pytest.approx([0.1, 0.1 / math.sqrt(2), 0.05, 0.1 / math.sqrt(8)])
    assert [e.updates for e in made.expected] == [1600, 3200, 6400, 12800]


def test_data_that_were_gone_through_often_are_worn_by_hand(monkeypatch):
    """With e - 1 passes, ln(1 + passes) = 1: of each e-fold of time, a tenth of an e-fold more error."""
    monkeypatch.setattr(module, "GOES_ON", 0.0)
    monkeypatch.setattr(module, "WORN", 0.1)
    made = forecast([Pilot(0.1, 100, 0.4, {"loss": 0.4})], {"loss": 0.1}, 1600, passes=math.e - 1)
    assert [e.value for e in made.expected] == pytest.approx([0.1 * f**0.1 for f in FACTORS])


def test_an_interval_by_hand(monkeypatch):
    """At e times the budget, one e-fold: the deviation is SPREAD + OF_POWER p ln(1 + passes) = .1 + .2 (1/2) = .2."""
    for name, value in {"GOES_ON": 0, "WORN": 0, "REPEATS": 0, "SPREAD": 0.1, "OF_POWER": 0.2}.items():
        monkeypatch.setattr(module, name, value)
    pilot = Pilot(0.1, 100, 0.4, {"loss": 0.4})
    (made,) = forecast([pilot], {"loss": 0.1}, 1600, passes=math.e - 1, factors=(math.e,)).expected
    assert made.low == pytest.approx(0.1 * math.exp(-0.2 * module.BETTER))
    assert made.high == pytest.approx(0.1 * math.exp(0.2 * module.WORSE))


def test_an_accuracy_is_forecast_by_its_error():
    made = said()
    first, *later = made.expected
    assert first.value == 0.9 and first.updates == 2000
    assert all(e.low < e.value < e.high <= 1 for e in made.expected)
    widths = [e.high - e.low for e in made.expected]
    assert widths == sorted(widths)
    assert all(e.value > 0.9 for e in later)


def test_more_passes_through_the_data_promise_less():
    few, many = (said(passes=passes).expected[-1] for passes in (1.0, 50.0))
    assert many.value < few.value and many.low < 0.9


def test_few_validation_samples_widen_the_intervals_of_an_accuracy():
    few, many, unknown = (said(samples=n).expected[1] for n in (50, 5000, None))
    assert few.high - few.low > many.high - many.low >= unknown.high - unknown.low


def test_the_best_pilot_counts():
    pilots = [made_of(0.2, lr=0.03), made_of(0.5), made_of(None, lr=0.3)]
    made = forecast(pilots, {"loss": 0.3, "accuracy": 0.9}, 1900, passes=4.0, budget=2000, samples=5000)
    assert made.n == 2 and made.expected == said().expected


@pytest.mark.parametrize(
    ("pilots", "valid", "given", "reason"),
    [
        ([], {"accuracy": 0.9}, {}, "no pilots were made"),
        ([made_of(None)], {"accuracy": 0.9}, {}, "no pilot came to a number"),
        ([made_of(0.5)], None, {}, "there is no validation data"),
        ([made_of(0.5)], {"loss": math.nan}, {}, "no metric is a number"),
        ([made_of(0.5)], {"accuracy": 1.0}, {}, "accuracy is 100.00 %: nothing is left to gain"),
        ([made_of(0.5, score=3.0)], {"score": 7.0}, {}, "score 7 has no known limit"),
        ([made_of(0.5)], {"accuracy": 0.5}, {}, "the whole run came no further than a pilot"),
        ([made_of(0.105)], {"accuracy": 0.9}, {"nothing": {"measure": "accuracy", "value": 0.1}}, "learned nothing"),
        ([made_of(0.5)], {"accuracy": 0.9}, {"stopped": "the target is reached"}, "stopped early: the target is"),
    ],
)
def test_says_why_it_cannot_say(pilots, valid, given, reason):
    made = forecast(pilots, valid, 1900, passes=4.0, **given)
    assert made.expected == () and reason in (made.reason or "") and made.line().startswith("forecast: cannot say: ")
    assert made.reason in made._repr_html_() or "&" in made._repr_html_()
    assert made.budget_for(0.95).reason == made.reason and made.budget_for(0.95).factor is None


def test_intervals_hold_nine_of_ten_power_laws_with_noise():
    """Errors that fall as a power all the way, with a floor that they never pass, measured on 2,000 samples."""
    draw, inside, cases = random.Random(0), dict.fromkeys(FACTORS[1:], 0), 400
    for _ in range(cases):
        floor, power = draw.uniform(0.02, 0.3), draw.uniform(0.2, 0.6)

        def accuracy(updates: float, floor=floor, power=power) -> float:
            error = floor + (0.9 - floor) * (10 / updates) ** power
            return 1 - sum(draw.random() < error for _ in range(2000)) / 2000

        made = forecast(
            [made_of(accuracy(32))], {"accuracy": accuracy(2000)}, 2000, passes=draw.uniform(1, 20), samples=2000
        )
        for e in made.expected[1:]:
            inside[e.factor] += e.low <= accuracy(e.updates) <= e.high
    assert all(n / cases > 0.85 for n in inside.values()), inside


def test_the_budget_for_a_target():
    made = replace(said(passes=0.5), seconds=100.0)
    target = made.expected[2].value
    needed = made.budget_for(target)
    assert needed.factor == pytest.approx(4, rel=0.03) and needed.updates == pytest.approx(8000, rel=0.03)
    assert needed.seconds == pytest.approx(400, rel=0.03) and needed.reason is None
    assert needed.low is not None and needed.low < 4 and (needed.high is None or needed.high > 4)
    assert "times this budget" in needed.line() and "updates (" in needed.line()


def test_a_target_that_is_reached_already_takes_no_more():
    needed = said().budget_for(0.8)
    assert needed.factor == 1 and needed.updates == 2000
    assert needed.line() == "accuracy 80.00 % is expected of this budget already, 2,000 updates"


def test_a_target_beyond_what_is_known():
    needed = said().budget_for(0.9999)
    assert needed.factor is None and "at 8 times this budget" in needed.line() and "cannot say" in needed.line()


@pytest.mark.parametrize("target", ["much", None, math.nan, math.inf])
def test_a_target_that_is_none(target):
    with pytest.raises(ConfigError, match="target is a value of the validation accuracy, a finite number"):
        said().budget_for(target)


@pytest.mark.parametrize("target", [93, -0.1, 1.001])
def test_a_target_that_no_accuracy_can_have(target):
    message = rf"received {target}; an accuracy is a share from 0 to 1, such as 0\.93"
    for asked in (said().budget_for, said().plot, Forecast("balanced_accuracy", reason="no pilots").budget_for):
        with pytest.raises(ConfigError, match=message):
            asked(target)
    assert Forecast("perplexity", reason="no pilots").budget_for(93).target == 93


def test_a_line_for_a_person():
    made = said()
    at = made.expected[1]
    assert f"accuracy {100 * at.value:.1f} % ({100 * at.low:.1f} % to {100 * at.high:.1f} %) at twice" in made.line()
    assert made.line().endswith(" at four times this budget") and made.line() in made._repr_html_()
    assert made.to_dict()["line"] == made.line() and len(made.to_dict()["expected"]) == 4


def test_a_forecast_is_drawn_beyond_what_was_measured():
    pytest.importorskip("matplotlib")
    made = said(measured=[(949, {"loss": 0.5, "accuracy": 0.8}), (1899, {"loss": 0.3, "accuracy": 0.9})])
    (panel,) = made.plot(target=0.93).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}
    assert drawn["this run, validation"] == [[950, 0.8], [1900, 0.9]]
    assert drawn["pilots, held-out"] == [[30, 0.5]]
    assert drawn["forecast"] == [[e.updates, e.value] for e in made.expected]
    assert any(set(line.get_ydata()) == {0.93} for line in panel.get_lines())
    again = Forecast.from_dict(made.to_dict())
    assert again == made and (again.pilots, again.measured) == ((), ()), "the run's files keep what was measured"
    assert [line.get_label() for line in again.plot().axes[0].get_lines()] == ["forecast"]
    with pytest.raises(ConfigError, match="target is a value of the validation accuracy"):
        made.plot(target=math.nan)
    with pytest.raises(ConfigError, match="no forecast to draw: no pilots were made"):
        forecast([], {"loss": 0.3}, 100, passes=1.0).plot()
