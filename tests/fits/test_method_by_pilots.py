"""The method of fine-tuning by pilots inside the budget: what they decide, and what the run then trains."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
from test_fine_tune import interrupted_at, learner, net
from training_makers import differing, weights

from onecycle import CheckpointError, ConfigError, preset
from onecycle.records.files import RUN, read_jsonl
from onecycle.schedules.stages import Stage
from onecycle.search import api, peak
from onecycle.search.api import search_of
from onecycle.search.peak import choose_method, length
from onecycle.search.pilots import Levels, Pilot

# Enough for three pilots of the peak and one for each other method, as short as they are here.
UPDATES = 700
BUDGET = f"{UPDATES} updates"
LEVELS = Levels(nothing=1.0, start=0.5)


@pytest.fixture(autouse=True)
def short_pilots(monkeypatch):
    monkeypatch.setitem(peak.LEAST, "adaptive", 10)


def pilots(default: float | None, full: float | None, head: float | None = 0.5) -> list[Pilot]:
    """Two by the default method, the first of them worse, and one by each other."""
    made = [Pilot(1e-3, 30, None if default is None else default + 0.1), Pilot(1e-4, 30, default)]
    return [*made, Pilot(1e-5, 30, full, method="full"), Pilot(1e-4, 30, head, method="head")]


@pytest.mark.parametrize(
    ("given", "method", "why"),
    [
        (pilots(0.4, 0.45), None, "no other was better"),
        (pilots(0.4, 0.39), None, "no clear gain"),
        (pilots(0.4, 0.3), "full", "came to a held-out loss of 0.3, the default's to 0.4"),
        (pilots(0.6, 0.59, 0.45), "head", "0.45"),
        (pilots(1.05, 0.95), "head", "0.5"),
        (pilots(1.05, 1.01, 1.02), None, "no other was better"),
        (pilots(None, 0.9, None), "full", "the pilots of the default were lost"),
        (pilots(0.4, None, math.inf), None, "the pilots of others were lost"),
    ],
    ids=[
        "worse",
        "no evidence",
        "full",
        "head",
        "nothing learned but by the head",
        "nothing learned",
        "lost",
        "others",
    ],
)
def test_the_default_is_left_for_evidence(given, method, why):
    chosen, said = choose_method(given, LEVELS, "adaptive")
    assert chosen == method and why in said


def test_pilots_of_other_methods_are_inside_the_share():
    for updates in range(200, 6000, 100):
        if each := length(updates, updates // 10, "adaptive", methods=2):
            assert 5 * each + 6 * each / 4 <= updates / 10 + 6


def test_pilots_choose_and_the_record_says_it(tmp_path):
    learn = learner()
    result = learn.fine_tune(budget=BUDGET, out=tmp_path)
    search = RUN.read(tmp_path)["resolved"]["search"]
    assert [p["method"] for p in search["pilots"]] == [None, None, None, "full", "head"]
    assert search["updates"] <= UPDATES / 10 and result.updates == UPDATES - search["updates"]
    found = min((p for p in search["pilots"][:3]), key=lambda p: p["loss"])
    assert search["pilots"][3]["lr_max"] == pytest.approx(found["lr_max"] / 10, rel=1e-2)
    assert search["pilots"][4]["lr_max"] == pytest.approx(found["lr_max"], rel=1e-2)
    assert sum('fine-tuning by "' in note for note in learn.notes) == 1


@pytest.fixture
def chosen(monkeypatch, request):
    """What pilots chose, in place of their own word."""
    monkeypatch.setattr(api, "choose_method", lambda *about: (request.param, "so it was"))
    return request.param


@pytest.mark.parametrize("chosen", ["full", "head"], indirect=True)
def test_the_run_is_by_the_method_that_was_chosen(chosen):
    learn = learner()
    learn.fine_tune(stages=[Stage("2 epochs", "head")])
    learn.unfreeze()
    head = weights(learn.model)
    again = learner(learn.model)
    again.fit(BUDGET, spread="auto")
    rates = {group["layer"]: group["lr"] for group in again.optimizer.param_groups}
    moved = set(differing(head, weights(learn.model)))
    if chosen == "full":
        assert len(set(rates.values())) == 1 and "0.0.weight" in moved
        assert max(rates.values()) > 0 and max(step["lr"] for step in again.history.steps) < 7e-3 / 3
    else:
        assert moved == {"2.weight", "2.bias"}, "neither weights nor statistics of the body"
    assert all(p.requires_grad for p in learn.model.parameters()), "frozen for that fit alone"
    assert all(module.training for module in learn.model.modules())
    assert f'fine-tuning by "{chosen}": so it was' in "\n".join(again.notes)


@pytest.fixture(scope="module")
def whole():
    """A learner, by the method that pilots chose, that nothing happened to: one for each method."""

    @functools.cache
    def trained(chosen):
        learn = learner()
        learn.fine_tune(budget=BUDGET)
        return learn

    return trained


@pytest.mark.parametrize(
    ("chosen", "k", "kept"),
    [("full", 245, 0), ("full", 275, 3), ("head", 285, 4), ("head", 400, 5)],
    indirect=["chosen"],
)
def test_broken_off_and_resumed_to_the_bit(tmp_path, chosen, k, kept, whole):
    """After the head's 240 updates in the first pilot of the peak, those of "full" and the head, or in what follows."""
    whole = whole(chosen)
    cut = learner()
    with interrupted_at(k):
        cut.fine_tune(budget=BUDGET, out=tmp_path / "cut")
    made = read_jsonl(tmp_path / "cut" / "pilots.jsonl") if kept else []
    assert [one["method"] for one in made] == [None, None, None, "full", "head"][:kept]
    resumed = learner()
    result = resumed.fine_tune(budget=BUDGET, out=tmp_path / "cut", resume=True)
    assert differing(weights(whole.model), weights(resumed.model)) == []
    assert result.valid == whole.evaluate()
    assert replace(resumed.forecast(), seconds=None) == replace(whole.forecast(), seconds=None)
    assert len(RUN.read(tmp_path / "cut")["resolved"]["search"]["pilots"]) == 5


def test_a_peak_of_ones_own_leaves_the_default_method():
    learn = learner()
    learn.fit(2, lr_max=1e-3, spread="auto")
    first, last = learn.optimizer.param_groups[0]["lr"], learn.optimizer.param_groups[-1]["lr"]
    assert last / first == pytest.approx(100)
    assert not any('fine-tuning by "' in note for note in learn.notes)


def test_nothing_else_is_tried_where_the_body_is_frozen():
    learn = learner()
    learn.freeze()
    learn.fit(BUDGET, spread="auto")
    assert any("pilots of " in note for note in learn.notes)
    assert not any('fine-tuning by "' in note for note in learn.notes)


@pytest.mark.parametrize("chosen", ["head"], indirect=True)
def test_a_run_of_the_head_by_pilots_is_not_extended_to_all_of_it(tmp_path, chosen):
    learn = learner()
    learn.fine_tune(budget=BUDGET, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="part of"):
        learn.extend(1)
    with pytest.raises(ConfigError, match="part of"):
        learner().extend(1, run=tmp_path / "run")
    with pytest.raises(CheckpointError, match='trained by "head", which pilots chose'):
        learner().fine_tune(budget=BUDGET, method="discriminative", out=tmp_path / "run", resume=True)


def test_pilots_measure_the_statistics_that_the_run_has():
    """Norms that keep theirs are measured with them: at a rate of next to nothing the loss is that of the start."""
    model = net()
    learn = learner(model)
    before = learn.evaluate()["loss"]
    learn._frozen.hold_norms()
    found = search_of(
        learn.state, learn.train, learn.valid, 2000, 1e-9, policy=lambda peak, updates: preset("constant", peak)
    )
    assert found.pilots[0].loss == pytest.approx(before, rel=1e-4)
