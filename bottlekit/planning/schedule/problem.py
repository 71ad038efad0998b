"""What is to be scheduled: layers, the times of all contiguous groups of them on both machines, what they exchange.

    boundary    0        1        2                  n
                | layer 0 | layer 1 |  ...  | layer n-1 |
    tensors     input     output of layer 0 ...        result

JointDNN (Eshratifar et al., section 3) measures every contiguous group i..j on both machines, because the times of
layers do not add up. A schedule covers every layer exactly once with such groups, each on the mobile or the cloud.
A tensor crosses the network once if a layer on the other machine reads it: the output of a layer for the next one,
and the source of a residual connection for the layer where it ends, however many switches lie between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from math import isfinite

import numpy as np
import numpy.typing as npt

from bottlekit.errors import UsageError
from bottlekit.planning.energy import not_negative
from bottlekit.specs import LinkSpec, Objective

Table = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor between layers, and what sending it costs.

    `source` is the boundary where it comes to be: 0 for the network's input, k for the output of layer k - 1.
    `readers` are the layers that read it; n, one past the last layer, is the application on the mobile, which wants
    the result. Bytes are those of the wire, after whatever codec is used.
    """

    name: str
    source: int
    readers: tuple[int, ...]
    upload_bytes: float
    download_bytes: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a schedule may cost at most; None: no bound.

    `energy_mj` is JointDNN's battery limitation, `cloud_ms` its cloud load (the sum of the cloud's times),
    `latency_ms` its quality of service.
    """

    latency_ms: float | None = None
    energy_mj: float | None = None
    cloud_ms: float | None = None

    def __post_init__(self) -> None:
        for name, option in BOUND_OPTIONS.items():
            value = getattr(self, name)
            if value is not None:
                not_negative(value, option)


BOUND_OPTIONS = {"latency_ms": "--max-latency-ms", "energy_mj": "--max-energy-mj", "cloud_ms": "--max-cloud-ms"}


@dataclasses.dataclass(frozen=True, eq=False)
class ScheduleProblem:
    """A network of n layers between a mobile and a cloud.

    `mobile_ms`, `mobile_mj`, `cloud_ms`: (n, n); [i, j] is the group of layers i..j, counted from 0, both included;
    what stands below the diagonal is not looked at. Infinity in a `_ms` table: that machine cannot run the group.
    `update_bytes`: what the mobile downloads if a layer ran on the cloud: in training, the weights that the cloud
    changed. `fixed_boundaries`: where no switch may be. `radio_tail_mj`: what the radio spends after its last
    transfer, once for any schedule that uses it. A round trip counts half for each switch. `whole_runs`: layers
    that follow each other on one machine are one group, as they are run; the paper also lets two groups follow each
    other there, which is cheaper where their measured times happen to be.
    """

    names: tuple[str, ...]
    mobile_ms: Table
    mobile_mj: Table
    cloud_ms: Table
    tensors: tuple[Tensor, ...]
    link: LinkSpec
    objective: Objective = "latency"
    bounds: Bounds = Bounds()
    update_bytes: tuple[float, ...] = ()
    fixed_boundaries: frozenset[int] = frozenset()
    include_beta: bool = True
    radio_tail_mj: float = 0.0
    whole_runs: bool = False

    def __post_init__(self) -> None:
        count = len(self.names)
        if not count:
            raise UsageError("there is no layer to schedule")
        if self.objective not in ("latency", "energy"):
            raise UsageError(f"--objective must be latency or energy for a schedule, not {self.objective!r}")
        for name in ("mobile_ms", "mobile_mj", "cloud_ms"):
            _check_table(getattr(self, name), count, name, may_be_infinite=name != "mobile_mj")
        if self.update_bytes and len(self.update_bytes) != count:
            raise UsageError(f"update_bytes has {len(self.update_bytes)} values for {count} layers")
        for value in self.update_bytes:
            not_negative(value, "the bytes of a layer's weights")
        not_negative(self.radio_tail_mj, "the energy of the radio's tail")
        for tensor in self.tensors:
            _check_tensor(tensor, count)
        wrong = [boundary for boundary in self.fixed_boundaries if not 0 <= boundary <= count]
        if wrong:
            raise UsageError(f"there is no boundary {wrong[0]}; they are 0..{count}")

    @property
    def count(self) -> int:
        """n, the number of layers."""
        return len(self.names)

    def with_loads(self, mobile: float = 1.0, cloud: float = 1.0) -> ScheduleProblem:
        """The same problem on busier machines: times, and what the mobile spends meanwhile, times these factors."""
        for value, option in ((mobile, "--device-load"), (cloud, "--server-load")):
            if not (isfinite(value) and value > 0):
                raise UsageError(f"{option} must be a positive number, not {value}")
        return dataclasses.replace(
            self,
            mobile_ms=self.mobile_ms * mobile,
            mobile_mj=self.mobile_mj * mobile,
            cloud_ms=self.cloud_ms * cloud,
        )


def summed_groups(per_layer: Sequence[float]) -> Table:
    """The (n, n) table of groups whose layers add up: [i, j] is the sum of layers i..j."""
    ends = np.concatenate([[0.0], np.cumsum(np.asarray(per_layer, dtype=float))])
    return np.triu(ends[None, 1:] - ends[:-1, None])


def chain_tensors(
    upload_bytes: Sequence[float], download_bytes: Sequence[float] | None = None, wants_result: bool = True
) -> tuple[Tensor, ...]:
    """The tensors of a chain of n layers from the bytes at its n + 1 boundaries: each read by the next layer alone.

    Without `wants_result` nobody reads the last one.
    """
    down = upload_bytes if download_bytes is None else download_bytes
    count = len(upload_bytes) - 1
    return tuple(
        Tensor(f"boundary {at}", at, (at,) if at < count or wants_result else (), float(up), float(back))
        for at, (up, back) in enumerate(zip(upload_bytes, down, strict=True))
    )


def with_skips(tensors: Sequence[Tensor], skips: Iterable[tuple[int, int]]) -> tuple[Tensor, ...]:
    """The tensors, with residual connections: (source, layer): this layer too reads what is at `source`."""
    more: dict[int, set[int]] = {}
    for source, layer in skips:
        more.setdefault(source, set()).add(layer)
    return tuple(
        dataclasses.replace(tensor, readers=tuple(sorted({*tensor.readers, *more.get(tensor.source, set())})))
        for tensor in tensors
    )


def _check_table(table: Table, count: int, name: str, may_be_infinite: bool) -> None:
    if table.shape != (count, count):
        raise UsageError(f"{name} has the shape {table.shape}, {count} layers need ({count}, {count})")
    values = table[np.triu_indices(count)]
    wrong = ~(values >= 0.0) if may_be_infinite else ~((values >= 0.0) & np.isfinite(values))
    if wrong.any():
        first, last = (indices[wrong][0] for indices in np.triu_indices(count))
        raise UsageError(f"{name} of the layers {first}..{last} must be 0 or more, not {table[first, last]}")


def _check_tensor(tensor: Tensor, count: int) -> None:
    where = f"the tensor {tensor.name}"
    not_negative(tensor.upload_bytes, f"the upload of {where} in bytes")
    not_negative(tensor.download_bytes, f"the download of {where} in bytes")
    if not 0 <= tensor.source <= count:
        raise UsageError(f"{where} comes from boundary {tensor.source}; there are 0..{count}")
    early = [reader for reader in tensor.readers if not tensor.source <= reader <= count]
    if early:
        raise UsageError(
            f"{where} is read by layer {early[0]}; layers {tensor.source}..{count} can read what is at "
            f"boundary {tensor.source}"
        )
