"""A machine whose energy is known to the last digit, and the sensors that look at it.

    loops and pauses --Truth--> energy up to any moment, exact; energy of one inference, gross and net
    Truth --sensor---> PowerTrace: what a meter would have recorded

Power is piecewise constant, with a slow unrest on top: within an inference a burst (the network) and a quieter part
(the host); between blocks and before and after runs the idle floor. Times and powers of every inference differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bottlekit.device.energy_effort import EnergyEffort
from bottlekit.device.energy_protocol import Record, Run
from bottlekit.device.power_trace import PowerTrace

Array = NDArray[np.float64]


class Work(NamedTuple):
    """A machine and its network: powers in mW, times of one inference in s, relative spread of both."""

    idle_mw: float
    burst_mw: float
    host_mw: float
    burst_s: float
    host_s: float
    spread: float = 0.03
    # The idle floor wanders by this fraction, and forgets where it was after so many seconds.
    unrest: float = 0.005
    unrest_s: float = 2.0

    @property
    def inference_s(self) -> float:
        """Mean time of one inference."""
        return self.burst_s + self.host_s


class Truth(NamedTuple):
    """What really happened: `energy_mj` at `moments_s`, linear in between, and the protocol's record of it.

    `gross_mj`, `net_mj`: what one inference of its runs cost, without the gaps, and above the idle floor.
    """

    moments_s: Array
    energy_mj: Array
    record: Record
    gross_mj: float
    net_mj: float

    def mean_mw(self, begins_s: Array, ends_s: Array) -> Array:
        """The true mean power between each pair of moments."""
        energy = np.interp(ends_s, self.moments_s, self.energy_mj) - np.interp(
            begins_s, self.moments_s, self.energy_mj
        )
        return np.asarray(energy / (ends_s - begins_s), dtype=np.float64)

    @property
    def end_s(self) -> float:
        """When the record ends."""
        return self.record.idle_after_s[1]


def truth_of_protocol(work: Work, effort: EnergyEffort, refresh_s: float, random: np.random.RandomState) -> Truth:
    """The whole protocol on a machine: idle, warm-up, runs, settling, idle. Starts half a second early."""
    run_s = max(effort.run_s, effort.run_refreshes * refresh_s)
    pieces = [_pause(work, 0.5 + effort.idle_s)]
    warm_up, _ = _loop(work, effort.warm_up_s + effort.window_s, effort, random)
    pieces.append(warm_up)
    runs = []
    for _ in range(effort.repeats):
        piece, counts = _loop(work, run_s, effort, random)
        runs.append((len(pieces), counts))
        pieces.append(piece)
    pieces += [_pause(work, effort.settle_s), _pause(work, effort.idle_s), _pause(work, 0.5)]
    lengths = [float(piece[0].sum()) for piece in pieces]
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    moments, energy = _accumulated(work, pieces, random)

    found, busy_mj, floor_mj, inferences = [], 0.0, 0.0, 0
    for index, counts in runs:
        blocks = _blocks(pieces[index], counts, float(begins[index]))
        found.append(Run([(float(begin), float(end), int(count)) for begin, end, count in blocks], []))
        held = np.interp(blocks[:, :2], moments, energy)
        busy_mj += float((held[:, 1] - held[:, 0]).sum())
        floor_mj += work.idle_mw * float((blocks[:, 1] - blocks[:, 0]).sum())
        inferences += int(counts.sum())
    after = float(begins[-3])
    record = Record(
        (0.5, 0.5 + effort.idle_s), {"seconds": lengths[1], "stable": True}, found, (after, after + effort.idle_s)
    )
    return Truth(moments, energy, record, busy_mj / inferences, (busy_mj - floor_mj) / inferences)


# A piece: durations in s and powers in mW of its parts, (2, n).


def _pause(work: Work, seconds: float) -> Array:
    return np.array([[seconds], [work.idle_mw]])


def _loop(
    work: Work, seconds: float, effort: EnergyEffort, random: np.random.RandomState
) -> tuple[Array, NDArray[np.int64]]:
    """Blocks of inferences with gaps between them: (the piece, how many inferences each block has)."""
    per_block = max(1, int(np.ceil(effort.block_s / work.inference_s)))
    blocks = int(np.ceil(seconds / (per_block * work.inference_s + 0.5 * effort.gap_max_s)))
    shape = (blocks, per_block)
    durations = np.stack(
        [work.burst_s * _spread(work, random, shape), work.host_s * _spread(work, random, shape)], axis=2
    )
    powers = np.stack(
        [work.burst_mw * _spread(work, random, shape), work.host_mw * _spread(work, random, shape)], axis=2
    )
    gaps = random.uniform(0.0, effort.gap_max_s, (blocks, 1))
    gaps[-1] = 0.0
    durations = np.concatenate([durations.reshape(blocks, -1), gaps], axis=1)
    powers = np.concatenate([powers.reshape(blocks, -1), np.full((blocks, 1), work.idle_mw)], axis=1)
    return np.stack([durations.ravel(), powers.ravel()]), np.full(blocks, per_block)


def _spread(work: Work, random: np.random.RandomState, shape: tuple[int, ...]) -> Array:
    return np.maximum(random.normal(1.0, work.spread, shape), 0.1)


def _blocks(piece: Array, counts: NDArray[np.int64], begin_s: float) -> Array:
    """Begin, end and inferences of each block of a loop: (blocks, 3)."""
    parts = piece[0].reshape(counts.size, -1)
    ends = begin_s + np.cumsum(parts.sum(axis=1))
    begins = np.concatenate([[begin_s], ends[:-1]])
    return np.stack([begins, begins + parts[:, :-1].sum(axis=1), counts.astype(np.float64)], axis=1)


def _accumulated(work: Work, pieces: list[Array], random: np.random.RandomState) -> tuple[Array, Array]:
    """Moments at which power changes, and the energy up to each; the unrest is a line between points of a grid."""
    durations, powers = np.concatenate(pieces, axis=1)
    moments = np.concatenate([[0.0], np.cumsum(durations)])
    energy = np.concatenate([[0.0], np.cumsum(durations * powers)])
    step_s = 0.1
    grid = np.arange(0.0, moments[-1] + 2 * step_s, step_s)
    keep = np.exp(-step_s / work.unrest_s)
    pushes = random.normal(0.0, work.unrest * work.idle_mw * np.sqrt(1.0 - keep**2), grid.size)
    wandering = np.empty(grid.size)
    wandering[0] = random.normal(0.0, work.unrest * work.idle_mw)
    for i in range(1, grid.size):
        wandering[i] = keep * wandering[i - 1] + pushes[i]
    on_grid = np.concatenate([[0.0], np.cumsum(0.5 * (wandering[1:] + wandering[:-1]) * step_s)])
    everywhere = np.union1d(moments, grid[grid < moments[-1]])
    return everywhere, np.interp(everywhere, moments, energy) + np.interp(everywhere, grid, on_grid)


class Sensor(NamedTuple):
    """How a meter looks at power.

    It has something new every `refresh_s`: the mean of `windows` windows of `window_s`, `stride_s` apart, the last
    of which ends then; in steps of `quantum_mw`, with noise of `noise_mw`, times `gain`. It is read every `read_s`.
    `counter` counts energy instead: exactly, in steps of `quantum_mw` times a second.
    """

    name: str
    refresh_s: float
    window_s: float
    read_s: float
    quantum_mw: float
    noise_mw: float
    windows: int = 1
    stride_s: float = 0.0
    gain: float = 1.0
    triggered: bool = False
    counter: bool = False


def trace_of(truth: Truth, sensor: Sensor, random: np.random.RandomState) -> PowerTrace:
    """What a sampler would have read from a sensor; a reading is up to a millisecond late, as threads are."""
    times = np.arange(0.2, truth.end_s + 0.2, sensor.read_s)
    times += random.exponential(0.1 * min(sensor.read_s, 1e-3), times.size).clip(max=0.4 * sensor.read_s)
    phase_s = random.uniform(0.0, sensor.refresh_s)
    if sensor.counter:
        # It is brought up to date by its own clock.
        updated = np.floor((times - phase_s) / sensor.refresh_s) * sensor.refresh_s + phase_s
        counted = np.interp(updated, truth.moments_s, truth.energy_mj)
        values = np.floor(counted / sensor.quantum_mw) * sensor.quantum_mw
        return _trace(times, values, sensor, "energy")
    fresh = times if sensor.triggered else np.arange(phase_s, truth.end_s + 1.0, sensor.refresh_s)
    fresh = fresh[fresh > sensor.windows * sensor.stride_s + sensor.window_s]
    ends = fresh[:, np.newaxis] - sensor.stride_s * np.arange(sensor.windows)
    powers = truth.mean_mw(ends - sensor.window_s, ends).mean(axis=1) * sensor.gain
    powers += random.normal(0.0, sensor.noise_mw, powers.size)
    shown = np.maximum(np.round(powers / sensor.quantum_mw) * sensor.quantum_mw, 0.0)
    held = np.searchsorted(fresh, times, side="right") - 1
    known = held >= 0
    return _trace(times[known], shown[held[known]], sensor, "power")


def _trace(times: Array, values: Array, sensor: Sensor, kind: str) -> PowerTrace:
    refresh_s = max(sensor.refresh_s, sensor.read_s)
    facts = {"name": sensor.name, "boundary": "simulated"}
    return PowerTrace(times, values[np.newaxis], ("simulated",), kind, refresh_s, facts)
