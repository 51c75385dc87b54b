"""A profile leaves no trace, says what it left out, and names only what was measured and gains."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from training_makers import blobs, differing, seeded_net, weights

from onecycle import ConfigError, DataError, Interrupted, Learner, as_batches, one_cycle, train
from onecycle.errors import NonFiniteLoss
from onecycle.profiling import advice, api, machine, measure
from onecycle.profiling.clock import PARTS
from onecycle.profiling.measure import Timing, Visit, timing
from onecycle.profiling.result import Profile
from onecycle.profiling.settings import Setting, applied, resized, setting_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few updates end each go, so that no budget is spent; and nothing else is known of this machine."""
    monkeypatch.setattr(measure, "MOST", 4)
    monkeypatch.setattr(api, "cores", lambda: 1)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))

    def forward(self, x):
        return self.body(x)


def images(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 6, 6, generator=generator), torch.arange(n) % 2


def learner(model: nn.Module | None = None, data=None, **options) -> Learner:
    options = {"batch_size": 8, "device": "cpu", **options}
    return Learner(model or seeded_net(), data or blobs(64), verbose=False, **options)


def words(profile: Profile) -> list[str]:
    return [one.setting.words(profile.present.setting) for one in profile.others]


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_everything_is_as_before(optimizer):
    learn = learner(Convolutions(), images(), optimizer=optimizer)
    learn.model.body[1].eval()
    learn.model.body[0].weight.grad = torch.ones_like(learn.model.body[0].weight)
    before, modes = weights(learn.model), [part.training for part in learn.model.modules()]
    layouts = [p.stride() for p in learn.model.parameters()]
    rng, groups, threads = (
        torch.get_rng_state(),
        [dict(g) for g in learn.optimizer.param_groups],
        torch.get_num_threads(),
    )
    profile = learn.profile()
    assert {*words(profile)} >= {"bf16", "channels first", "batches of 16", "batches of 4"}
    assert differing(before, weights(learn.model)) == []
    assert [part.training for part in learn.model.modules()] == modes
    assert [p.stride() for p in learn.model.parameters()] == layouts
    assert bool((learn.model.body[0].weight.grad == 1).all())
    assert torch.equal(rng, torch.get_rng_state()) and torch.get_num_threads() == threads
    assert not learn.optimizer.state
    assert [{k: v for k, v in g.items() if k != "params"} for g in groups] == [
        {k: v for k, v in g.items() if k != "params"} for g in learn.optimizer.param_groups
    ]
    assert learn.state.step == 0 and learn.state.begun is None and not learn.history.steps


def test_a_run_under_way_goes_on_as_if_there_had_been_no_profile():
    def trained(profiled: bool) -> dict:
        learn = learner(average=0.9)
        for event in train(learn.state, learn.train, "12 updates", one_cycle(0.1, 12)):
            if profiled and getattr(event, "step", None) == 5:
                break
        if profiled:
            learn.profile()
            list(train(learn.state, learn.train, "12 updates", one_cycle(0.1, 12)))
        return weights(learn.model)

    assert differing(trained(True), trained(False)) == []


def test_the_parts_sum_to_an_update_and_the_result_is_plain_data():
    profile = learner().profile()
    present = profile.present
    assert tuple(present.parts) == PARTS and min(present.parts.values()) > 0
    assert sum(present.shares.values()) == pytest.approx(1)
    assert present.low <= present.seconds <= present.high
    plain = profile.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["present"]["setting"] == {
        "batch_size": 8, "precision": "fp32", "threads": torch.get_num_threads(), "workers": None,
        "channels_last": None, "compile": False,
    }  # fmt: skip
    assert "samples a second" in repr(profile) and "What to change:" in str(profile)
    assert "samples a second" in profile._repr_html_()


def test_a_budget_that_is_too_short_says_what_was_left_out():
    profile = learner().profile("0.000001s")
    assert profile.present.updates == 1 and profile.others == ()
    assert "bf16: no time was left" in profile.left_out and "batches of 16: no time was left" in profile.left_out
    assert profile.change == ()


@pytest.mark.parametrize("budget", ["10 epochs", 3, "500 updates", "soon"])
def test_a_budget_is_a_time(budget):
    with pytest.raises(ConfigError, match="budget"):
        learner().profile(budget)


class Greedy(nn.Module):
    """Has no memory for more than so many samples."""

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError):
        super().__init__()
        self.body, self.most, self.error = nn.Linear(4, 3), most, error

    def forward(self, x):
        if self.training and len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.body(x)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_an_answer(error):
    profile = learner(Greedy(12, error), batch_size=32).profile()
    assert profile.present.failed == "out of memory"
    fits = profile.change[0]
    assert fits.sentence == "a batch of 32 does not fit into the memory: batch_size=8 does"
    sizes = {one.setting.batch_size: one.failed for one in profile.others if one.setting.precision == "fp32"}
    assert sizes[8] is None and sizes[4] is None and sizes[16] == "out of memory"
    assert "does not fit" in str(profile)


def test_where_not_even_one_sample_fits():
    with pytest.raises(DataError, match=r"not even a batch of 1 fits into the memory of cpu"):
        learner(Greedy(0)).profile()
    with pytest.raises(DataError, match=r"not even a batch of 5 fits"):
        learner(Greedy(0), [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))] * 3).profile()


def test_an_error_of_the_training_is_raised_and_one_of_another_setting_is_said(monkeypatch):
    class Picky(nn.Linear):
        def forward(self, x):
            if self.training and torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not in bfloat16\nat all")
            return super().forward(x)

    profile = learner(Picky(4, 3)).profile()
    (failed,) = [one for one in profile.others if one.setting.precision == "bf16"]
    assert failed.failed == "not in bfloat16"
    assert "bf16: not in bfloat16" in str(profile)
    calls = []

    class Broken(nn.Linear):
        def forward(self, x):
            calls.append(1)
            if len(calls) > 40:
                raise RuntimeError("broken")
            return super().forward(x)

    monkeypatch.setattr(measure, "MOST", 100)
    with pytest.raises(RuntimeError, match="broken"):
        learner(Broken(4, 3)).profile()


def test_batches_that_come_once_are_still_there():
    batches = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long)) for _ in range(20)]
    learn = learner(data=iter(batches))
    profile = learn.profile()
    assert any("can be gone through only once" in note for note in profile.notes)
    assert any("no other sizes were tried" in note for note in profile.notes)
    assert profile.largest is None
    left = list(learn.train.epoch(0))
    assert len(left) == 20 and torch.equal(left[0][0], batches[0][0])


class Pairs(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.full((4,), float(i)), i % 3


def test_workers_are_tried_where_data_are_read():
    profile = learner(data=Pairs()).profile()
    assert {"1 worker", "2 workers"} <= {*words(profile)}
    assert not [one for one in words(learner().profile()) if "worker" in one]


def test_a_loader_is_made_anew_with_other_numbers():
    given = TensorDataset(*blobs(60))
    loader = DataLoader(given, 8, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3))
    batches, state = as_batches(loader), loader.generator.get_state()
    assert setting_of(learner(data=loader).state, batches).batch_size == 8
    made = resized(batches, 16, 0)
    assert [len(batch[0]) for batch in made.epoch(0)] == [16, 16, 16]
    seen = torch.cat([batch[0] for batch in made.epoch(0)])
    assert not torch.equal(seen, given.tensors[0][:48]) and len(seen.unique(dim=0)) == 48
    assert [len(batch[0]) for batch in batches.epoch(0)] == [8] * 7
    assert torch.equal(loader.generator.get_state(), state)
    assert resized(batches, 8, 0) is batches
    profile = learner(data=loader).profile()
    assert "batches of 16" in words(profile) and "1 worker" in words(profile)
    sampled = DataLoader(given, batch_sampler=[[0, 1], [2, 3]])
    assert [len(batch[0]) for batch in resized(as_batches(sampled), None, 1).epoch(0)] == [2, 2]


def test_a_setting_is_within_its_block_alone():
    learn = learner(Convolutions(), images())
    present = setting_of(learn.state, learn.train)
    other = Setting(16, "fp16", 1, None, channels_last=False)
    threads, place = torch.get_num_threads(), learn.model.body[0].weight.data_ptr()
    with applied(other, learn.state, learn.train) as (state, batches):
        assert state.runtime.precision == "fp16" and state.scaler is not None and state is not learn.state
        assert torch.get_num_threads() == 1 and batches.batch_size == 16
        assert learn.model.body[0].weight.is_contiguous()
    assert learn.state.runtime.precision == "fp32" and learn.state.scaler is None
    assert torch.get_num_threads() == threads and learn.model.body[0].weight.data_ptr() == place
    assert setting_of(learn.state, learn.train) == present
    assert other.words(present).split(", ")[:2] == ["batches of 16", "fp16"]


def test_compiling_is_tried_when_it_is_asked_for(monkeypatch):
    compiled = []

    class Compiled(nn.Module):
        def __init__(self, model, **options):
            super().__init__()
            self._orig_mod = model
            compiled.append(model)

        def forward(self, x):
            return self._orig_mod(x)

    monkeypatch.setattr(torch, "compile", Compiled)
    monkeypatch.setattr("onecycle.training.compiled._check_tools", lambda device: None)
    learn = learner()
    profile = learn.profile()
    assert not compiled and any("torch.compile" in one for one in profile.left_out)
    assert "compiled" in words(learn.profile(compile=True)) and compiled == [learn.model]
    already = learner(compile=True)
    assert words(already.profile()) == ["not compiled"]


def test_memory_that_is_not_free_is_not_taken(monkeypatch):
    monkeypatch.setattr(api, "free_memory", lambda device: 100)
    monkeypatch.setattr(api._Profiler, "bytes_per_sample", lambda self: 50.2)
    profile = learner().profile()
    assert "batches of 16: it may take 402 bytes of 100 bytes that are free" in profile.left_out
    assert profile.largest == {"batch_size": 10, "how": "estimated", "bytes_per_sample": 50, "free": 100}
    assert "about 10 samples (50 bytes a sample, 100 bytes free)" in str(profile)


def made(setting: Setting, seconds: float, n: int = 10, samples: float = 8, spread: float = 0.0, **more) -> Visit:
    parts = [dict.fromkeys(PARTS, (seconds + spread * (k - n / 2)) / 5) for k in range(n)]
    about = {"starts": [0.0], "memory": None, "warm": 0.0} | more
    return Visit(setting, parts, samples, **about)


def test_only_gains_that_last_are_named():
    base, bf16, large = Setting(8), Setting(8, "bf16"), Setting(16)
    visits = {base: [made(base, 1.0), made(base, 1.0)], bf16: [made(bf16, 0.5), made(bf16, 0.6)]}
    visits[large] = [made(large, 1.9, samples=16)] * 2  # 5 % are none

    def changes(**options):
        timings = [timing(goes, 8) for goes in visits.values()]
        return advice.changes(base, visits, timings, timings[0], **{"shell": False, "of_loader": False, **options})

    (only,) = changes()
    assert only.sentence == 'precision="bf16": 1.8 times the samples a second (14.5 in place of 8)'
    assert changes(shell=True)[0].words == "--precision bf16"
    visits[bf16] = [made(bf16, 0.5), made(bf16, 1.0)]  # once only
    assert changes() == ()
    visits[bf16] = [made(bf16, 0.8, spread=0.2)] * 2  # no more than chance
    visits[base] = [made(base, 1.0, spread=0.3)] * 2
    assert changes() == ()


def test_a_gain_is_that_of_the_rates_which_are_said():
    base, bf16 = Setting(8), Setting(8, "bf16")
    visits = {base: [made(base, 1.0, n=30), made(base, 9.0)], bf16: [made(bf16, 0.5), made(bf16, 0.5)]}
    timings = [timing(goes, 8) for goes in visits.values()]
    (only,) = advice.changes(base, visits, timings, timings[0], shell=False, of_loader=False)
    assert only.gain == 2 and "2 times the samples a second (16 in place of 8)" in only.sentence


def test_of_batches_that_are_as_good_the_smaller_one_is_named():
    base = Setting(8)
    visits = {base: [made(base, 1.0)] * 2}
    for size, seconds in ((16, 1.05), (32, 2.05), (4, 0.9)):
        one = Setting(size)
        visits[one] = [made(one, seconds, samples=size)] * 2
    timings = [timing(goes, 8) for goes in visits.values()]
    (only,) = advice.changes(base, visits, timings, timings[0], shell=False, of_loader=True)
    assert only.words == "batch_size=16 in the DataLoader"
    assert only.sentence.endswith(
        "; an epoch has 0.5 times the updates then, which changes what is learned, not only the speed"
    )


def test_reading_compiling_and_several_at_once():
    base = Setting(8, threads=2, workers=0)
    visits = {
        base: [made(base, 1.0)] * 2,
        (w := Setting(8, threads=2, workers=2)): [made(w, 0.5)] * 2,
        (t := Setting(8, threads=1, workers=0)): [made(t, 0.7)] * 2,
        (c := Setting(8, threads=2, workers=0, compile=True)): [made(c, 0.8, warm=20.0)],
    }
    both = advice.together(base, visits)
    assert both == Setting(8, threads=1, workers=2)
    visits[both] = [made(both, 0.2)] * 2
    timings = [timing(goes, 8) for goes in visits.values()]
    said = [one.sentence for one in advice.changes(base, visits, timings, timings[0], shell=True, of_loader=False)]
    assert said[0].startswith("reading takes 20 % of an update. OMP_NUM_THREADS=1 --workers 2: 5 times")
    assert said[1].startswith("reading takes 20 % of an update. --workers 2: 2 times the samples a second")
    assert said[2].startswith("OMP_NUM_THREADS=1: 1.4 times")
    assert said[3].endswith("; compiling took 20 s, which 100 updates pay for")


def test_several_at_once_are_named_where_they_add():
    base, bf16, one, both = Setting(8, threads=2), Setting(8, "bf16", 2), Setting(8, threads=1), Setting(8, "bf16", 1)
    visits = {base: [made(base, 1.0)] * 2, bf16: [made(bf16, 0.5)] * 2, one: [made(one, 0.8)] * 2}
    visits[both] = [made(both, 0.48)] * 2

    def named() -> list[str]:
        timings = [timing(goes, 8) for goes in visits.values()]
        said = advice.changes(base, visits, timings, timings[0], shell=True, of_loader=False)
        return [change.words for change in said]

    assert named() == ["--precision bf16", "OMP_NUM_THREADS=1"]
    visits[both] = [made(both, 0.4)] * 2
    assert named() == ["OMP_NUM_THREADS=1 --precision bf16", "--precision bf16", "OMP_NUM_THREADS=1"]


def test_two_updates_tell_nothing_unless_they_are_long():
    base, bf16 = Setting(8), Setting(8, "bf16")
    assert advice.gain([made(bf16, 5.0, n=2)], [made(base, 10.0)]) == 2
    assert advice.gain([made(bf16, 5.0, n=1)], [made(base, 10.0)]) is None
    assert advice.gain([made(bf16, 0.5, n=2)], [made(base, 1.0)]) is None
    assert advice.gain([made(bf16, 0.5, n=3)], [made(base, 1.0)]) == 2


def test_the_start_of_workers_counts():
    base, two = Setting(8, workers=0), Setting(8, workers=2)
    visits = {base: [made(base, 1.0)] * 2, two: [made(two, 0.5, starts=[100.0])] * 2}
    timings = [timing(goes, 10) for goes in visits.values()]
    assert timings[1].rate == pytest.approx(8 / 10.5)
    assert advice.changes(base, visits, timings, timings[0], shell=True, of_loader=False) == ()


def test_updates_that_workers_bring_several_at_a_time_count_together():
    two = Setting(8, workers=1)
    updates = [{name: (0.0 if k % 2 else 2.0) if name == "data" else 0.0 for name in PARTS} for k in range(8)]
    one = timing([Visit(two, updates, 8, [0.0], None, 0.0)], None)
    assert (one.seconds, one.low, one.high, one.updates) == (1.0, 1.0, 1.0, 8)


def test_memory_of_a_sample_from_two_sizes():
    learn = learner()
    profiler = api._Profiler(learn.state, learn.train, 0.0, None)
    base = profiler.base
    profiler.visits[base] = [made(base, 1.0, memory=1000, before=920)]
    assert profiler.bytes_per_sample() == 10
    large = Setting(32, threads=base.threads)
    profiler.visits[large] = [made(large, 1.0, memory=1120)]
    assert profiler.bytes_per_sample() == 5


def test_the_largest_batch_of_an_accelerator_is_tried(monkeypatch):
    """By doubling until it does not fit, and then by the memory of a sample or the middle."""
    learn = learner(Greedy(45), batch_size=8)
    profiler = api._Profiler(learn.state, learn.train, float("inf"), None)
    assert profiler.measure(profiler.base, 0.0)
    monkeypatch.setattr(api, "free_memory", lambda device: 10**6)
    monkeypatch.setattr(api._Profiler, "bytes_per_sample", lambda self: 30_000.0)
    monkeypatch.setattr(profiler.state, "runtime", profiler.state.runtime)
    largest = api._tried(profiler, 8, estimate=41)
    assert largest[0] in range(41, 46) and largest[1] == "measured"
    assert api._tried(api_of(learner(Greedy(10**9))), 8, estimate=41) == (64, "at least")


def api_of(learn: Learner) -> api._Profiler:
    profiler = api._Profiler(learn.state, learn.train, float("inf"), None)
    profiler.measure(profiler.base, 0.0)
    return profiler


def test_what_a_machine_has(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert machine.support(cpu) == {"bf16": "AMX and avx512_bf16"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Volta")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert machine.support(torch.device("cuda")) == {"fp16": "Volta", "bf16": None}
    (tmp_path / "memory.max").write_text("5000")
    (tmp_path / "memory.current").write_text("3000")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.free_memory(cpu) == 2000
    (tmp_path / "memory.max").write_text("max")
    assert machine.free_memory(cpu) != 2000


def test_the_most_memory_within_a_block():
    with machine.peak_memory(torch.device("cpu")) as peak:
        array = np.ones(20_000_000)
        del array
    if peak.start is None or peak.most is None:
        pytest.skip("this system does not tell")
    assert peak.most - peak.start > 100e6


def test_a_loss_that_is_not_finite_is_not_blamed_on_the_learning_rate():
    learn = learner()
    with torch.no_grad():
        next(learn.model.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteLoss, match=r"not finite at the weights that the model has") as caught:
        learn.profile("2s")
    assert "lr_max" not in str(caught.value)


def test_a_failed_timing_has_no_shares():
    assert Timing(Setting(8)).shares == {}


def test_slow_updates_are_few(monkeypatch):
    """One warms up and one counts where these take twice the time of a go; fast ones are at least three."""
    monkeypatch.setattr(measure, "MOST", 100)
    learn = learner()
    present = setting_of(learn.state, learn.train)
    slow = measure.visit(present, learn.state, learn.train, -1.0, float("inf"))
    assert slow is not None and len(slow.updates) == 1
    ticks = iter(range(10**6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks))
    fast = measure.visit(present, learn.state, learn.train, 10**5, float("inf"))
    assert fast is not None and len(fast.updates) > 3


def test_ctrl_c_leaves_everything_as_before():
    class Stopped(nn.Linear):
        calls = 0

        def forward(self, x):
            Stopped.calls += self.training
            if Stopped.calls == 3:
                signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    learn = learner(Stopped(4, 3))
    before, rng, Stopped.calls = weights(learn.model), torch.get_rng_state(), 0
    with pytest.raises(Interrupted, match="SIGINT"):
        learn.profile()
    assert differing(before, weights(learn.model)) == [] and torch.equal(rng, torch.get_rng_state())
