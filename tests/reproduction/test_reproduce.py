"""Reproductions: protocols that fit their claims, verdicts by hand, a small one from end to end, and its resumption."""

import json
from dataclasses import replace

import pytest

from onecycle.commands.app import main
from onecycle.errors import CheckpointError, ConfigError, DataError, Interrupted
from onecycle.experiments import plan
from onecycle.report.draw_reproduction import points_of
from onecycle.reproduction.claims import is_in, settle, words
from onecycle.reproduction.evidence import gather, largest_error, plan_lines, specs, value_of
from onecycle.reproduction.protocol import NAMES, Claim, Line, Panel, Protocol, published, read, sizes
from onecycle.reproduction.reproduce import Reproduction, home, reproduce, with_seeds
from onecycle.schedules.presets import preset

SIZES = [(name, size) for name in NAMES for size in sizes(name)]


def cells(protocol):
    """What the runs of a protocol with one seed are, without making them."""
    if protocol.kind == "schedules":
        return [{"part": p, "measure": m} for p in protocol.parts for m in ("learning rate", "momentum")]
    if protocol.kind == "range-tests":
        return [{"part": part} for part in protocol.parts]
    found = []
    for name, spec in specs(protocol).items():
        for setting in plan.settings(spec):
            for cell in plan.conditions(spec, setting):
                batch = plan.base_job(spec, setting).batch_size or 64
                limit = spec.settings.get("limit", 45_000)
                known = {"part": name, "policy": cell.policy, "epochs": cell.epochs, "batch_size": batch}
                updates = round(cell.epochs * (limit // batch))
                found.append({**spec.settings, **known, **dict(setting), "lr_max": spec.peak(cell.policy),
                              "updates": updates})  # fmt: skip
    return found


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_claim_and_line_of_a_protocol_is_about_runs_that_it_makes(name, size):
    protocol = read(name, size)
    made = cells(protocol)
    for spec in specs(protocol).values():
        plan.check(spec)
        assert spec.tune or all(spec.peak(policy) for policy in spec.policies), "no run searches its peak"
        job = plan.base_job(spec, plan.settings(spec)[0])  # what the plan is measured with
        preset(job.policy, 0.1, 10**6, **job.schedule_options)
    for claim in protocol.claims:
        for where in (*claim.plus, *claim.minus):
            assert sum(is_in(cell, where) for cell in made) == 1, (claim.text, where)
    for line in protocol.lines:
        assert any(is_in(cell, line.where) for cell in made), line
    assert protocol.seeds >= 3
    assert protocol.claims and published(name)


def test_the_runs_of_equal_length_have_as_many_updates_in_every_protocol():
    for size, updates in (("small", 640), ("paper", 10_000)):
        sizes = {cell["updates"] for cell in cells(read("batch-size", size)) if cell["part"] != "epochs"}
        assert sizes == {updates}
    assert {cell["updates"] for cell in cells(read("limited-data"))} == {320}
    assert {cell["updates"] for cell in cells(read("limited-data", "cpu"))} == {1280}
    assert {cell["updates"] for cell in cells(read("accuracy", "cpu"))} == {435, 870}
    assert {cell["updates"] for cell in cells(read("accuracy", "paper"))} == {10_000, 80_000}


def test_what_was_published():
    assert published("limited-data")["1cycle, 10,000 updates"][-1] == (10_000, 0.806)
    assert published("accuracy")["1cycle, .1 to 3"][-1] == (10_000, 0.9244)
    assert published("accuracy")["piecewise constant, .35"][-1] == (80_000, 0.9032)
    schedule = published("schedule")
    assert schedule["learning rate / peak"][0] == (0, 0.0833333) and schedule["momentum"][0] == (0, 0.95)


def runs(**cells):
    return [{"name": name, "seed": s, "value": v} for name, values in cells.items() for s, v in enumerate(values)]


A_ABOVE_B = Claim("a is above b", plus=({"name": "a"},), minus=({"name": "b"},))


def test_a_claim_is_held_refuted_or_undecided_by_the_interval_of_its_differences():
    # differences .02 +- .01: t(2) = 4.303, half width 4.303 * .01 / sqrt(3) = .02484
    found = settle(A_ABOVE_B, runs(a=[0.93, 0.92, 0.91], b=[0.90, 0.90, 0.90]))
    assert found.contrast.mean == pytest.approx(0.02)
    assert found.contrast.low == pytest.approx(0.02 - 0.02484, abs=1e-5)
    assert found.answer == "undecided"
    assert settle(A_ABOVE_B, runs(a=[0.93, 0.92, 0.925], b=[0.90, 0.90, 0.90])).answer == "held"
    assert settle(A_ABOVE_B, runs(b=[0.93, 0.92, 0.925], a=[0.90, 0.90, 0.90])).answer == "refuted"
    assert settle(A_ABOVE_B, runs(a=[0.93], b=[0.90])).answer == "undecided"


def test_a_margin_is_taken_into_account():
    rows = runs(a=[0.899, 0.898, 0.9], b=[0.90, 0.90, 0.90])
    assert settle(A_ABOVE_B, rows).answer == "undecided"
    assert settle(replace(A_ABOVE_B, than=-0.005), rows).answer == "held"
    assert settle(replace(A_ABOVE_B, than=0.005), rows).answer == "refuted"


def test_only_seeds_that_all_cells_have_count_and_none_is_an_error():
    rows = runs(a=[0.93, 0.92, 0.925, None], b=[0.9, 0.9, 0.9, 0.9])
    assert settle(A_ABOVE_B, rows).contrast.n == 3
    with pytest.raises(DataError, match="a is above b"):
        settle(A_ABOVE_B, runs(a=[0.9]))
    with pytest.raises(ConfigError, match="several runs of seed 0"):
        settle(A_ABOVE_B, [*rows, *rows])


def test_the_words_have_the_numbers():
    found = settle(A_ABOVE_B, runs(a=[0.93, 0.92, 0.925], b=[0.90, 0.90, 0.90]))
    assert words(found) == "held: a is above b (+2.5 points, 95 % interval 1.26 to 3.74, n = 3)."
    claim = Claim("b is at most .95", minus=({"name": "b"},), than=-0.95)
    said = words(settle(claim, runs(b=[0.93, 0.92, 0.925])))
    assert said == "held: b is at most .95 (92.5 points, 95 % interval 91.3 to 93.7, below 95, n = 3)."


COMMON = {
    "data": "digits",
    "model": "mlp",
    "optimizer": "sgd",
    "limit": 320,
    "batch_size": 64,
    "seeds": 2,
    "tune": False,
}
SMALL = Protocol(
    name="weight-decay",
    size="small",
    title="A small one",
    claim="More is less.",
    source="here",
    published=Panel("published", "x", "y", log=True),
    panel=Panel("here", "weight decay", "test accuracy", log=True),
    kind="comparisons",
    common={**COMMON, "policies": ["one_cycle"], "epochs": [1], "weight_decay": [1e-4, 1e-2]},
    parts={"large": {"lr_max": 0.2}},
    claims=(Claim("less is more", ({"weight_decay": 1e-4},), ({"weight_decay": 1e-2},)),),
    lines=(Line("peak .2", {"lr_max": 0.2}),),
    by="weight_decay",
)


def test_comparisons_are_gathered_once_and_drawn(tmp_path):
    rows = gather(SMALL, tmp_path)
    assert [(row["weight_decay"], row["seed"], row["lr_max"]) for row in rows] == [
        (1e-4, 0, 0.2), (1e-2, 0, 0.2), (1e-4, 1, 0.2), (1e-2, 1, 0.2),
    ]  # fmt: skip
    assert all(0 < row["value"] <= 1 for row in rows)
    records = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(records) == 4
    assert gather(SMALL, tmp_path) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == records
    found = Reproduction(SMALL, tmp_path, (settle(SMALL.claims[0], rows),), rows)
    theirs, ours = found.figure().axes
    assert [line.get_label() for line in theirs.lines] == ["1cycle, .1 to 3"]
    assert ours.lines[0].get_label() == "peak .2 (n = 2)"
    assert list(ours.lines[0].get_ydata()) == [sum(r["value"] for r in rows[i::2]) / 2 for i in (0, 1)]
    assert found.draw("svg").read_bytes().startswith(b"<?xml")
    assert found.summary[:2] == ["A small one (here)", "Claimed: More is less."]


def test_without_a_setting_the_lines_are_curves_over_training(tmp_path):
    protocol = replace(SMALL, by=None, common={**SMALL.common, "epochs": [2], "weight_decay": [1e-4]})
    rows = gather(protocol, tmp_path)
    points = points_of(rows, None)
    assert list(points) == [row["updates"] / 2 * k for row in rows[:1] for k in (1, 2)]
    assert [len(values) for values in points.values()] == [2, 2]


def test_a_run_that_diverges_counts_as_chance(tmp_path):
    protocol = replace(SMALL, parts={"large": {"lr_max": 1e6}}, common={**SMALL.common, "weight_decay": [1e-4, 1e-2]})
    rows = gather(protocol, tmp_path)
    assert {row["status"] for row in rows} == {"failed"} and {row["value"] for row in rows} == {0.1}
    found = Reproduction(protocol, tmp_path, (settle(protocol.claims[0], rows),), rows)
    assert found.summary[-1] == "4 of 4 runs diverged, and count as chance."
    assert found.findings[0].answer == "undecided"


def test_a_run_that_fails_for_another_reason_is_no_evidence(tmp_path):
    row = {"status": "failed", "error": "its process died", "test_accuracy": None}
    assert value_of(row) is None
    found = Reproduction(
        SMALL, tmp_path, (settle(A_ABOVE_B, runs(a=[0.9, 0.8], b=[0.8, 0.7])),), [row | {"value": None}]
    )
    assert found.summary[-1] == "1 of 1 run failed, and are left out."


def test_a_sweep_that_does_not_say_is_no_evidence(tmp_path):
    flat = {"lr": [0.1, 0.2, 0.3, 0.4], "loss": [1.0] * 4, "valid_lr": [0.1, 0.2, 0.3, 0.4], "valid_loss": [1.0] * 4,
            "valid_accuracy": [0.1] * 4, "stopped": "end"}  # fmt: skip
    (tmp_path / "mlp").mkdir()
    (tmp_path / "mlp/check.json").write_text(json.dumps({"schema": 1, "result": {"curve": {"sweeps": [flat]}}}))
    protocol = replace(SMALL, kind="range-tests", parts={"mlp": {}}, common={"augment": "none"})
    assert [row["value"] for row in gather(protocol, tmp_path)] == [None]


def test_range_tests_are_gathered_once_a_repeat_a_record(tmp_path):
    protocol = replace(
        SMALL, kind="range-tests", by=None, parts={"mlp": {"model": "mlp"}}, options={"updates": 64, "repeats": 2},
        common={"data": "digits", "optimizer": "sgd", "augment": "none"},
    )  # fmt: skip
    rows = gather(protocol, tmp_path)
    assert [row["seed"] for row in rows] == [0, 1] and all(0 <= row["value"] <= 1 for row in rows)
    assert len(rows[0]["curve"]) > 5
    before = (tmp_path / "mlp/check.json").stat().st_mtime_ns
    assert gather(protocol, tmp_path) == rows
    assert (tmp_path / "mlp/check.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_schedule_is_compared_with_the_log_update_by_update(tmp_path):
    protocol = read("schedule")
    common = {**protocol.common, "seeds": 1, "batch_size": 1, "model_options": {"hidden": 4}}
    rows = gather(replace(protocol, parts={"author": protocol.parts["author"]}, common=common), tmp_path)
    assert {row["measure"]: row["value"] < 1e-5 for row in rows} == {"learning rate": True, "momentum": True}
    settled = [settle(claim, rows).contrast.mean for claim in protocol.claims]
    assert settled == [-row["value"] for row in rows]


def test_an_error_against_the_log_is_relative_and_the_largest():
    assert largest_error([1.0, 2.0, 3.0, 4.0], [(0, 1.0), (1, 4.0), (3, 5.0)]) == 0.5
    with pytest.raises(CheckpointError, match="log goes to update 3"):
        largest_error([1.0, 2.0, 3.0], [(0, 1.0), (3, 5.0)])


def test_another_number_of_seeds():
    assert with_seeds(read("accuracy"), 4).common["seeds"] == 4
    tests = with_seeds(read("range-test"), 4).options
    assert (tests["repeats"], tests["updates"]) == (4, 6000)
    for seeds in (1, 0, True, 2.5):
        with pytest.raises(ConfigError, match="at least 2"):
            with_seeds(read("accuracy"), seeds)


def test_the_folder_is_its_own(tmp_path):
    folder = home(SMALL, tmp_path / "a")
    assert home(SMALL, folder) == folder
    with pytest.raises(CheckpointError, match="another reproduction"):
        home(replace(SMALL, parts={"large": {"lr_max": 0.3}}), folder)
    assert home(with_seeds(SMALL, 3), folder) == folder
    with pytest.raises(CheckpointError, match="seeds: 4, now 3"):
        home(with_seeds(SMALL, 4), tmp_path / "c")
        home(with_seeds(SMALL, 3), tmp_path / "c")
    (folder / "reproduction.json").write_text('{"schema": 2}')
    with pytest.raises(CheckpointError, match="schema 2"):
        home(SMALL, folder)
    (folder / "reproduction.json").write_text('{"schema": 1, "proto')
    with pytest.raises(CheckpointError, match="cannot be read"):
        home(SMALL, folder)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").touch()
    with pytest.raises(CheckpointError, match="holds no reproduction"):
        home(SMALL, tmp_path / "b")


def test_unknown_names_and_sizes():
    with pytest.raises(ConfigError, match="momentum"):
        read("momentun")
    with pytest.raises(ConfigError, match="small"):
        read("accuracy", "smal")
    with pytest.raises(ConfigError, match="no size 'paper', but small"):
        read("schedule", "paper")


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("onecycle.reproduction.reproduce.read", lambda name, size: SMALL)
    out = tmp_path / "out"
    main(["reproduce", "weight-decay", "--out", str(out), "--json"])
    said = json.loads(capsys.readouterr().out)
    record = json.loads((out / "reproduction.json").read_text())
    assert said["answer"] == record["findings"][0]["answer"] and said["figure"] == str(out / "figure.png")
    assert len(record["table"]) == 4 and record["schema"] == 1 and "curve" not in record["table"][0]
    assert [row["test_accuracy"] for row in reproduce("weight-decay", out=out).rows] == [
        row["test_accuracy"] for row in record["table"]
    ]


def test_the_plan_from_the_shell(monkeypatch, capsys):
    monkeypatch.setattr(plan, "measure", lambda job, seconds: plan.Speed(1000.0, 160, 100))
    main(["reproduce", "range-test", "--plan"])
    assert "residual: 5 range tests; time: about " in capsys.readouterr().out


def test_bad_options_from_the_shell(capsys):
    for words_, expected in ((["momentun"], "momentum"), (["accuracy", "--size", "huge"], "paper, small")):
        with pytest.raises(SystemExit) as stop:
            main(["reproduce", *words_])
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err


RANGE_TESTS = replace(
    SMALL, kind="range-tests", by=None, parts={"mlp": {"model": "mlp"}}, options={"updates": 64, "repeats": 2},
    common={"data": "digits", "optimizer": "sgd", "augment": "none"},
    claims=(Claim("it keeps some", ({"part": "mlp"},)),),
)  # fmt: skip
SCHEDULES = replace(
    read("schedule"), parts={"author": {"policy": "author", "policy_options": {"lr_start": 0.01}}},
    common={**read("schedule").common, "seeds": 2, "limit": 320, "budget": "201 updates"},
)  # fmt: skip
LOG = {label: [point for point in line if point[0] <= 200] for label, line in published("schedule").items()}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (SMALL, ("runs: 4", "time: about ", "run 4/4  one_cycle-1-weight_decay0.01 seed 1: test accuracy ")),
        (RANGE_TESTS, ("1 range test: time: about ", "range test 1/1  mlp")),
        (SCHEDULES, ("2 runs: time: about ", "run 1/2, about ", "run 2/2  author seed 1")),
    ],
)
def test_each_kind_says_its_progress_from_the_first_second(protocol, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("onecycle.reproduction.reproduce.read", lambda name, size: protocol)
    monkeypatch.setattr("onecycle.reproduction.evidence.published", lambda name: LOG)
    measured = []
    monkeypatch.setattr(plan, "measure", lambda *_: measured.append(capsys.readouterr().err) or plan.Speed(1e3, 64, 9))
    made = reproduce("weight-decay", out=tmp_path / "out", verbose=True)
    assert measured[0].splitlines()[0] == f"{protocol.title} ({protocol.source})"
    said = capsys.readouterr().err
    assert all(words in said for words in expected), said
    assert repr(made).startswith(f"Reproduction({protocol.name}, small: {made.findings[0].answer}, ")
    assert json.loads(json.dumps(made.to_dict()))["summary"] == made.summary
    reproduce("weight-decay", out=tmp_path / "out", verbose=True)
    assert "about " not in capsys.readouterr().err  # all is there


def test_ctrl_c_says_the_command_that_goes_on(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise Interrupted("stopped by SIGINT", signal=2)

    monkeypatch.setattr("onecycle.reproduction.reproduce.gather", stopped)
    with pytest.raises(Interrupted, match=r"^stopped; what is done is kept in ") as stop:
        reproduce("accuracy", "paper", tmp_path / "out", seeds=4, jobs=2)
    command = "onecycle reproduce accuracy --size paper --seeds 4 --jobs 2 --out "
    assert stop.value.signal == 2 and str(stop.value).endswith(f"{command}{tmp_path / 'out'}")


def test_intervals_of_shares_say_nothing_impossible():
    claim = Claim("a is high", plus=({"name": "a"},))
    rows = runs(a=[1.0, 0.99, 0.8])
    assert settle(claim, rows).contrast.high > 1 and settle(claim, rows, shares=True).contrast.high == 1


def test_without_the_data_the_plan_says_what_it_can(monkeypatch):
    def absent(*_):
        raise DataError("cifar10 was not found")

    monkeypatch.setattr("onecycle.reproduction.evidence.plan.measure", absent)
    last = plan_lines(read("range-test"))[-1]
    assert "range tests each; how long it takes is not known: cifar10 was not found" in last
