"""The cost model of bench/simulate_scale.py: its parts against what is known of them, and the page with its tables."""

from __future__ import annotations

import itertools
import json
import math
import random
import runpy
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
scale = SimpleNamespace(**runpy.run_path(str(ROOT / "bench" / "simulate_scale.py")))
COSTS = scale.Costs()
every_table = pytest.mark.parametrize("name", [name for name in scale.TABLES if name != "inputs"])


def test_an_all_reduce_of_nothing_takes_its_steps_and_one_of_much_its_bytes():
    assert scale.all_reduce(1e9, 1, scale.INFINIBAND) == 0
    tree = 8.4e-6 + 2 * (7 * 1.2e-6 + 7 * 8.5e-6)
    assert scale.all_reduce(0, 1024, scale.INFINIBAND) == pytest.approx(tree), "a ring would take its 2,046 steps"
    much = 1e13
    assert scale.all_reduce(much, 1024, scale.ETHERNET) == pytest.approx(2 * 1023 / 1024 * much / 1e10, rel=1e-3)
    for cluster in scale.CLUSTERS.values():
        for world in (2, 8, 64, 1024):
            taken = [scale.all_reduce(size, world, cluster) for size in (0, 1e3, 1e6, 1e9)]
            assert all(a < b for a, b in itertools.pairwise(taken))


def test_ranks_agree_on_nothing_by_updates_and_in_steps_for_each_doubling_by_time_or_with_observers():
    costs, worlds = replace(COSTS, told=1.0, agreed=10.0, summed=100.0), (1, 2, 3, 1024)
    assert [scale.agreeing(world, costs) for world in worlds] == [0, 0, 0, 0]
    assert [scale.agreeing(world, costs, timed=True) for world in worlds] == [0, 1, 2, 10]
    assert [scale.agreeing(world, costs, observed=True) for world in worlds] == [0, 20, 40, 200]
    assert [scale.agreeing(world, costs, timed=True, observed=True) for world in worlds] == [0, 21, 42, 210]


def test_where_ranks_have_batches_of_their_own_samples_go_round_a_ring_of_two_steps_for_each_other_rank():
    costs = replace(COSTS, agreed=10.0, summed=1.0)
    assert [scale.agreeing(world, costs, divided=True) for world in (1, 2, 3, 1024)] == [0, 22, 44, 2246]


def test_what_ranks_agree_on_is_in_an_update_only_where_it_is_asked_for():
    given = scale.TRANSFORMER, 64, 8, scale.INFINIBAND, 0.02, COSTS
    plain, asked = scale.update(*given), scale.update(*given, timed=True, observed=True)
    assert plain.agreeing == 0 < asked.agreeing
    assert asked.in_turn - plain.in_turn == pytest.approx(asked.agreeing)


def test_records_are_sent_to_all_ranks_before_each_reads_them():
    first, more = (scale.restart_parts(scale.TRANSFORMER, 1024, scale.INFINIBAND, COSTS, n) for n in (0, 10**6))
    assert first["records"] == 0
    assert more["records"] == pytest.approx(10**6 * (10 * COSTS.row / COSTS.sent + COSTS.read))


def test_the_slowest_of_many_ranks_is_that_of_drawn_ones():
    draw = random.Random(0)
    for world in (2, 8, 64):
        largest = statistics.mean(max(draw.gauss(0, 1) for _ in range(world)) for _ in range(4000))
        assert scale.slowest(world) == pytest.approx(largest, abs=0.05)
    assert scale.slowest(1) == 0


def test_efficiency_is_at_most_one_and_falls_with_the_ranks():
    for work in scale.WORKLOADS:
        alone = scale.update(work, 1, work.batch, scale.INFINIBAND, 0.05, COSTS)
        assert scale.efficiency(work, work.batch, alone.ahead) == pytest.approx(1)
        for cluster in scale.CLUSTERS.values():
            times = [scale.update(work, world, work.batch, cluster, 0.02, COSTS) for world in (1, 8, 64, 1024)]
            shares = [scale.efficiency(work, work.batch, time.ahead) for time in times]
            assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < 1
            assert all(time.ahead < time.in_turn for time in times)


def test_a_host_that_runs_ahead_costs_nothing_until_it_takes_longer():
    time = scale.UpdateTime(compute=0.1, waiting=0.01, gradients=0.02, launching=0.04, agreeing=0.05, own=0.001)
    assert (time.ahead, time.in_turn) == (pytest.approx(0.13), pytest.approx(0.181))
    assert replace(time, agreeing=0.2).ahead == pytest.approx(0.241)


def test_gradients_hide_behind_the_last_backward_pass_alone():
    one = scale.update(scale.TRANSFORMER, 64, 8, scale.ETHERNET, 0.0, COSTS)
    two = scale.update(scale.TRANSFORMER, 64, 16, scale.ETHERNET, 0.0, COSTS)
    assert two.gradients == pytest.approx(one.gradients)
    assert (two.compute, two.launching) == (pytest.approx(2 * one.compute), pytest.approx(2 * one.launching))


def test_published_runs_are_explained_by_a_spread_within_the_one_that_is_used():
    low, high = scale.INFINIBAND.spread
    explained = [float(row.split("|")[4].strip(" %")) / 100 for row in list(scale.published(COSTS))[2:]]
    assert len(explained) == 3 and all(low <= spread <= high for spread in explained)


def test_simulated_lives_agree_with_the_formula():
    for every in (200.0, 2000.0, 9000.0):
        run = scale.Recovery(work=4e5, every=every, save=20.0, written=0.0, restart=300.0, between=2e4)
        mean, error = run.lives(3000, seed=3)
        assert abs(mean - run.expected) < 4 * error and error < 0.01 * mean
        late, late_error = replace(run, written=120.0).lives(3000, seed=3)
        assert late > mean - 4 * late_error


def test_without_failures_a_run_takes_its_work_and_its_saves():
    run = scale.Recovery(work=1000.0, every=300.0, save=7.0, written=3.0, restart=50.0, between=1e15)
    assert run.simulated(random.Random(0)) == pytest.approx(1000 + 3 * 7) == run.expected


def test_youngs_interval_is_about_the_best():
    run = scale.Recovery(work=1e6, every=1.0, save=20.0, written=0.0, restart=300.0, between=5e4)
    best = scale.young(run.save, run.between)
    assert best == pytest.approx(math.sqrt(2e6))
    expected = {factor: replace(run, every=factor * best).expected for factor in (0.5, 0.8, 1, 1.25, 2)}
    assert expected[1] < min(expected[0.5], expected[2])
    assert expected[1] == pytest.approx(min(expected.values()), rel=1e-3)


def test_measured_costs_come_from_their_file():
    measured = {
        "group": {"2": {"agreed": 4e-4, "told": 3e-4, "summed": 1e-4, "a byte sent": 1e-9}, "20": {"join": 2.0}},
        "update": {"own": 1e-4},
        "records": {"bytes": 100, "memory": 300, "read": 1e-6}, "start": {"onecycle": 2.0},
        "order": {"drawn of 1e+08": 1e-8, "computed in 32": 2e-7},
    }  # fmt: skip
    costs = scale.measured_costs(json.loads(json.dumps(measured)))
    assert (costs.own, costs.row, costs.imports) == (1e-4, 100, 2.0)
    assert (costs.agreed, costs.told, costs.summed) == (2e-4, 3e-4, 5e-5)
    assert (costs.join, costs.joined, costs.drawn, costs.computed) == (2.0, 20, 1e-8, 2e-7)
    assert costs.sent == pytest.approx(1e9)


@every_table
def test_the_page_shows_what_the_script_prints(name):
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "\n".join(scale.TABLES[name](COSTS)) in page, f"python bench/simulate_scale.py --table {name}"


def test_each_number_has_its_source():
    rows = list(scale.inputs(COSTS))[2:]
    assert len(rows) > 20 and all(len(row.split("|")[3].strip()) > 8 for row in rows)
