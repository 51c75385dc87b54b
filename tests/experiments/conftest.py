"""One Ray cluster for all tests: a head with one CPU, to which this process is connected."""

from __future__ import annotations

import logging
import secrets
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from ray_models import free_port

# Little memory, and a dead node is noticed after a second.
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024}
ATTENTIVE = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2
}  # fmt: skip


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The cluster; `client` is its address for other processes, ``add_node(**small)`` a further node."""
    if find_spec("ray") is None:
        pytest.skip('Ray is not installed: pip install "onecycle[ray]"')
    # A short path, since sockets lie in it; of its own, since Ray keeps there which cluster a machine is part of.
    with TemporaryDirectory(prefix="ray-") as home, pytest.MonkeyPatch.context() as patch:
        for variable in ("RAY_TMPDIR", "TMPDIR"):  # the latter for what a killed node leaves
            patch.setenv(variable, home)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # with it the client server dies now and then on a busy machine
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
