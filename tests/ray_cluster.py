"""A real Ray cluster of two nodes on this machine, for tests that search on one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

READY_S = 120
MARKS = [
    pytest.mark.slow,
    # Ray's processes and sockets are its own affair.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextlib.contextmanager
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head and one more node, a processor each; the test is skipped where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        reason = "no Ray here (pip install 'bottlekit[cluster]')"
        if os.environ.get("CI") == "true":
            pytest.fail(reason + ": CI must run this test")
        pytest.skip(reason)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()
        # A test that connects has Ray take SIGTERM for itself, and other tests are of signals.
        signal.signal(signal.SIGTERM, before)


def lose_a_node_at_work(cluster: Any) -> str:
    """Wait until both nodes are training, then kill the one that is not the head; its id. Ray must be connected."""
    import ray

    deadline_s = time.monotonic() + READY_S
    while ray.available_resources().get("CPU", 0) > 0:
        assert time.monotonic() < deadline_s, "the trainings do not begin"
        time.sleep(0.05)
    node = next(iter(cluster.worker_nodes))
    cluster.remove_node(node, allow_graceful=False)
    return str(node.node_id)
