"""What every test shares: one thread, no network, no display, no files outside temporary directories."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Set before anything reads them; the commands that tests start inherit them.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
}
torch.set_num_threads(1)
# A shell without job control starts what is in the background with Ctrl-C ignored, and so would be what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches live in a directory of this test run, so that no test sees what a user's runs left."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("ONECYCLE_CACHE", "XDG_CACHE_HOME", "HF_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """The plan of a comparison trains for a twentieth of a second, not for one: no test is about speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onecycle.experiments.plan.MEASURED", 0.05)
        yield


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The directory with the IDX files of Fashion-MNIST."""
    places = [Path("/usr/share/datasets/fashion-mnist")]
    if root := os.environ.get("ONECYCLE_DATA"):
        places.insert(0, Path(root) / "fashion-mnist")
    for place in places:
        if any(place.glob("train-images*")):
            return place
    pytest.skip("Fashion-MNIST is not installed (Debian: apt-get install dataset-fashion-mnist)")
