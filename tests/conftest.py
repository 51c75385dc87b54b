"""What every test shares: one thread, no network, no display, no files outside temporary directories."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import signal
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pytest
import torch
from ray_models import free_port

# Set before anything reads them; the commands that tests start inherit them.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    "TRACKIO_DIR": str(Path(gettempdir()) / f"onecycle-trackio-{os.getpid()}"),
}
torch.set_num_threads(1)
# A shell without job control starts what is in the background with Ctrl-C ignored, and so would be what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Of Ray: little memory, and a dead node is noticed after a second.
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024}
ATTENTIVE = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2
}  # fmt: skip


def pytest_collection_finish() -> None:
    """What is there before the first test lasts to the end: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches live in a directory of this test run, so that no test sees what a user's runs left."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("ONECYCLE_CACHE", "XDG_CACHE_HOME", "HF_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield
    shutil.rmtree(os.environ["TRACKIO_DIR"], ignore_errors=True)


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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster for all tests: a head with one CPU, to which this process is connected.

    `client` is its address for other processes, ``add_node(**small)`` a further node.
    """
    if find_spec("ray") is None:
        pytest.skip('Ray is not installed: pip install "onecycle[ray]"')
    # A short path, since sockets lie in it; of its own, since Ray keeps there which cluster a machine is part of.
    with TemporaryDirectory(prefix="ray-") as home, pytest.MonkeyPatch.context() as patch:
        for variable in ("RAY_TMPDIR", "TMPDIR"):  # the latter for what a killed node leaves
            patch.setenv(variable, home)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # with it the client server dies now and then on a busy machine
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a lost rank is noticed as soon
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own
            import ray
            from ray.cluster_utils import Cluster

            port = free_port()
            head = {**SMALL, "include_dashboard": False, "ray_client_server_port": port}
            made: Any = Cluster(initialize_head=True, head_node_args={**head, "_system_config": ATTENTIVE})
        try:
            ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
            made.client, made.small = f"ray://127.0.0.1:{port}", SMALL
            yield made
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.shutdown()
                made.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """The system's Chromium, without a window."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
