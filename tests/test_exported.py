"""The public names are pinned and documented, and importing them stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import forked
import pytest

import onecycle

EXPECTED = (
    "Budget",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "Driver",
    "EpochEnd",
    "History",
    "Interrupted",
    "Job",
    "Learner",
    "OneCycleError",
    "Piecewise",
    "Policy",
    "RangeTest",
    "Result",
    "Runtime",
    "Search",
    "Supervised",
    "TrainState",
    "TrainingError",
    "Update",
    "as_batches",
    "build_model",
    "check",
    "compare",
    "evaluate",
    "load",
    "load_run",
    "one_cycle",
    "predict",
    "preset",
    "range_test",
    "reproduce",
    "run",
    "search",
    "train",
    "untouched",
)
PACKAGES = {
    "commands", "data", "errors", "experiments", "jobs", "models", "optim", "records", "report", "reproduction",
    "schedules", "search", "training",
}  # fmt: skip
HEAVY = {
    "PIL", "accelerate", "cyclopts", "datasets", "jinja2", "matplotlib", "pandas", "plotly", "pyarrow", "ray", "rich",
    "scipy",
}  # fmt: skip


def fresh(code: str, *words: str) -> str:
    """What `code` prints in a new process."""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout


def test_public_names_are_pinned():
    assert onecycle.__all__ == sorted(EXPECTED)
    assert set(dir(onecycle)) >= {*EXPECTED, *PACKAGES}


@pytest.mark.parametrize("name", EXPECTED)
def test_public_name_is_documented(name):
    value = getattr(onecycle, name)
    written = value.__doc__ or ""  # not getdoc: that would accept a docstring inherited from the base
    assert callable(value) and written.strip()
    assert not written.startswith(f"{name}("), "the docstring that dataclass writes is none"
    assert inspect.getmodule(value).__name__.startswith("onecycle.")


def test_what_there_is_not():
    with pytest.raises(AttributeError, match="module 'onecycle' has no attribute 'learn'"):
        _ = onecycle.learn


def test_import_is_light():
    loaded = fresh("import sys, onecycle; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "onecycle" in loaded and not {"torch", "numpy", *HEAVY} & set(loaded)
    loaded = fresh(
        "import sys, onecycle\n"
        "for name in onecycle.__all__: getattr(onecycle, name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    assert "torch" in loaded and not HEAVY & set(loaded)


def test_packages_are_reached_by_their_names():
    assert fresh("import onecycle; print(onecycle.errors.NonFiniteLoss.__name__)") == "NonFiniteLoss\n"
    assert fresh("import onecycle; print(onecycle.schedules.presets.wsd(1.0)(0.5))") == "{'lr': 1.0}\n"


@pytest.mark.parametrize(
    "code",
    [
        "from onecycle.range_test import sweep; import onecycle",
        "import onecycle; onecycle.range_test; from onecycle.range_test import sweep",
        "import onecycle; import onecycle.range_test.sweep; from onecycle.range_test import sweep",
        "from onecycle import Learner, range_test; from onecycle.range_test import sweep; import onecycle",
    ],
)
def test_a_function_stays_one_beside_the_package_of_its_name(code):
    forget = "import sys; [sys.modules.pop(name) for name in [*sys.modules] if name.partition('.')[0] == 'onecycle']"
    done = forked.run(["-c", f"{forget}\n{code}; print(type(onecycle.range_test).__name__, sweep.__name__)"])
    assert (done.stdout, done.stderr) == ("function onecycle.range_test.sweep\n", "")


def test_a_training_loads_nothing_that_it_has_no_use_for():
    """torch._dynamo, which is for torch.compile, takes as long to import as the rest of torch."""
    loaded = fresh(
        "import sys, torch, onecycle; "
        "learn = onecycle.Learner(torch.nn.Linear(4, 2), [(torch.ones(8, 4), torch.ones(8).long())] * 4, verbose=False,"
        " optimizer='muon'); _ = learn.fit('2 updates', 'cosine', 0.01); print(*sys.modules)"
    ).split()
    heavy = {"torch._dynamo", "sympy", "pandas", "pyarrow", "datasets", "matplotlib", "plotly", "torchmetrics"}
    assert "onecycle.learner" in loaded and not heavy & set(loaded)
