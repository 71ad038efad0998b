"""The networks of a hybrid search, trained on the nodes of a Ray cluster.

    this machine                        a node of the cluster
    full-precision checkpoint --bytes--> temporary folder --train_hybrid--> network
    folder/<name>.safetensors <--------- bytes

As `training.search.cluster` does for bottlenecks: nodes share no files with this machine, but each needs bottlekit
and the data set at the same place. A training that was lost with its node goes to another one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ray

from bottlekit.device.files import whole_file
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.training.hybrid import train_hybrid
from bottlekit.training.hybrid_search import HybridJob, Listener
from bottlekit.training.search.cluster import connect, on_nodes, ray_speaks_to_stderr, result_of
from bottlekit.training.train import data_of_checkpoint


def train_on_cluster(
    address: str, jobs: list[HybridJob], source: Path, data_root: Path | None, say: Listener
) -> None:
    """Train all jobs on the cluster at `address`, each written to its path as soon as it is done.

    Raises UsageError where no cluster answers, what `train_hybrid` raises, and BottlekitError for a training whose
    nodes were lost too often; what was done before is kept.
    """
    connect(address)
    try:
        weights = ray.put(source.read_bytes())
        train = on_nodes(_train_on_node)
        root = None if data_root is None else str(data_root.resolve())
        begun = {train.remote(job, weights, root): job for job in jobs}
        try:
            with ray_speaks_to_stderr():
                while begun:
                    (done, *_), _ = ray.wait(list(begun), num_returns=1)
                    job = begun.pop(done)
                    network = result_of(done, job.name)
                    with whole_file(str(job.path)) as temporary:
                        Path(temporary).write_bytes(network)
                    say(f"{job.name}: trained")
        finally:
            for reference in begun:
                ray.cancel(reference, force=True)
    finally:
        ray.shutdown()


def _train_on_node(job: HybridJob, source: bytes, data_root: str | None) -> bytes:
    """`train_hybrid` on a node; the full-precision checkpoint comes, and the network goes, as bytes."""
    with tempfile.TemporaryDirectory(prefix="bottlekit-search-") as name:
        path, output = Path(name) / "source.safetensors", Path(name) / "network.safetensors"
        path.write_bytes(source)
        data = data_of_checkpoint(load_checkpoint(path), data_root, job.seed, quiet=True)
        train_hybrid(output, path, job.spec, job.plan, job.recipe, data, job.seed, job.command, quiet=True)
        return output.read_bytes()
