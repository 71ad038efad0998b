"""A Ray cluster as the workforce of a search.

    this machine                          a node of the cluster
    source, start (checkpoints) --bytes--> temporary folder --outcome_of_job--> outcome, network
    store <------------------------------- bytes

Nodes share no file system with this machine, but each needs bottlekit, and the data set at `Job.data_root` unless
it is one that needs no files. Ray gives a training that was lost with its node to another one.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import ray

from bottlekit.device.files import whole_file
from bottlekit.errors import BottlekitError, UsageError
from bottlekit.training.search.decisions import Trial
from bottlekit.training.search.job import Job, outcome_of_job

# A training is given up when so many nodes were lost under it.
LOST_NODES = 8


class Cluster:
    """A `with` around a search: connected inside, disconnected afterwards. The cluster itself stays as it is.

    `hands` is one for each GPU of the cluster, or for each processor where it has none; nodes may come and go.
    Raises UsageError where no cluster answers.
    """

    def __init__(self, address: str, source: Path, job_of: Callable[[Trial], Job]) -> None:
        """`address` is auto (the cluster this machine is part of), ray://host:port, or host:port."""
        connect(address)
        self._job_of = job_of
        self._source = ray.put(source.read_bytes())
        self._begun: dict[Any, tuple[Trial, Path]] = {}
        self._train = on_nodes(_train_on_node)
        self._elsewhere = ray_speaks_to_stderr()

    def __enter__(self) -> Cluster:
        self._elsewhere.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._begun:
            ray.cancel(reference, force=True)
        ray.shutdown()
        self._elsewhere.__exit__(kind, error, trace)

    @property
    def hands(self) -> int:
        """As the cluster is now."""
        resources = ray.cluster_resources()
        return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 0)))

    def begin(self, trial: Trial, start: Path | None, output: Path) -> None:
        """Hand a training to the cluster."""
        weights = None if start is None else start.read_bytes()
        reference = self._train.remote(self._job_of(trial), self._source, weights)
        self._begun[reference] = (trial, output)

    def next_done(self) -> tuple[Trial, dict[str, Any]]:
        """Wait for the cluster. Raises BottlekitError if a training's nodes were lost too often."""
        done, _ = ray.wait(list(self._begun), num_returns=1)
        trial, output = self._begun.pop(done[0])
        outcome, network = result_of(done[0], f"{trial.split} {trial.reduction}")
        if network is not None:
            with whole_file(str(output)) as temporary:
                Path(temporary).write_bytes(network)
        return trial, outcome


def result_of(done: ray.ObjectRef, training: str) -> Any:
    """What a training that is over gave. Raises bottlekit's own errors as they were there, and BottlekitError if
    the nodes of `training` were lost too often."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BottlekitError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise BottlekitError(
            f"the cluster lost the training of {training}: {type(error).__name__}; what was done is kept, the same "
            "command goes on"
        ) from error


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`; UsageError where none answers."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at --cluster {address} ({' '.join(str(error).split())}); start one with "
            "ray start --head, or leave --cluster out to train on this machine"
        ) from error
    finally:
        # Ray takes SIGTERM for itself, for good. What it means to this process is not the cluster's to say.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def ray_speaks_to_stderr() -> contextlib.redirect_stdout[TextIO]:
    """A `with` in which Ray's messages, a node is lost say, are kept off stdout: that may be JSON."""
    return contextlib.redirect_stdout(sys.stderr)


def on_nodes(training: Callable[..., Any]) -> Any:
    """`training` as something that nodes do, one on each GPU, or on each processor where the cluster has no GPU."""
    resources = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) else {"num_cpus": 1}
    return ray.remote(max_retries=LOST_NODES, **resources)(training)


def _train_on_node(job: Job, source: bytes, start: bytes | None) -> tuple[dict[str, Any], bytes | None]:
    """`outcome_of_job` on a node: checkpoints come and go as bytes. The network is None if training diverged."""
    with tempfile.TemporaryDirectory(prefix="bottlekit-search-") as name:
        folder = Path(name)
        (folder / "source.safetensors").write_bytes(source)
        start_path = None if start is None else folder / "start.safetensors"
        if start is not None and start_path is not None:
            start_path.write_bytes(start)
        output = folder / "network.safetensors"
        outcome = outcome_of_job(job, folder / "source.safetensors", start_path, output, quiet=True)
        outcome["node"] = ray.get_runtime_context().get_node_id()
        return outcome, None if outcome["accuracy"] is None else output.read_bytes()
