"""The order in which energy is measured: idle, warm-up, runs, idle. What it means is found afterwards (`energy`).

    phase, sampler --protocol--> Record: when the idle times and the runs were, how many inferences, what throttled
    sampler --------------------> PowerTrace: what the sensor said all the while

Clock and sleep are given, so that a test passes an hour in milliseconds. The clock must be the sampler's.
"""

import random
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from .energy_effort import POWER_AGREES, EnergyEffort
from .errors import ReportError
from .integrate import energy_between_mj, interior_of
from .power_trace import PowerTrace
from .stats import STABLE_WITHIN, WINDOWS, agree

Span = Tuple[float, float]
# (begin, end, how many inferences)
Block = Tuple[float, float, int]

# The distance of two looks at what throttles, and the time by which a run is prolonged for lack of readings.
_WATCH_S = 1.0
_LONGER = 0.25


class Run(NamedTuple):
    """One closed loop of inferences: its blocks in order, and a line for everything that throttled meanwhile."""

    blocks: List[Block]
    throttled: List[str]

    @property
    def begin_s(self) -> float:
        """When the first inference began."""
        return self.blocks[0][0]

    @property
    def end_s(self) -> float:
        """When the last inference ended."""
        return self.blocks[-1][1]

    @property
    def busy_s(self) -> float:
        """The time of the inferences, without the gaps between blocks."""
        return sum(end - begin for begin, end, _ in self.blocks)

    @property
    def inferences(self) -> int:
        """How many there were."""
        return sum(count for _, _, count in self.blocks)

    def within(self, begin_s: float, end_s: float) -> Tuple[float, float]:
        """The busy seconds, and the inferences, of a part of the run; those of a cut block in proportion."""
        blocks = np.array(self.blocks, dtype=np.float64)
        edges_s = blocks[:, :2].ravel()
        ends = [begin_s, end_s]
        found = []
        for amounts in (blocks[:, 1] - blocks[:, 0], blocks[:, 2]):
            # It grows within a block, and stays in the gap behind it.
            grown = np.stack([np.cumsum(amounts) - amounts, np.cumsum(amounts)], axis=1).ravel()
            found.append(float(np.diff(np.interp(ends, edges_s, grown))[0]))
        return found[0], found[1]


class Record(NamedTuple):
    """What was done when, on the clock of the trace. `warm_up` has `seconds`, `windows_mw` and `stable`."""

    idle_before_s: Span
    warm_up: Dict[str, Any]
    runs: List[Run]
    idle_after_s: Span

    def to_dict(self) -> Dict[str, Any]:
        """The record as JSON values."""
        return {
            "idle_before_s": list(self.idle_before_s),
            "warm_up": self.warm_up,
            "runs": [
                {"blocks": [list(block) for block in run.blocks], "throttled": run.throttled} for run in self.runs
            ],
            "idle_after_s": list(self.idle_after_s),
        }


class Protocol:
    """Runs one phase as the protocol wants it.

    Args:
        run: computes the i-th input.
        inputs: how many inputs there are; they take turns.
        trace: everything the sampler has read so far.
        effort: how long.
        clock, sleep: in seconds; the clock is the trace's.
        throttled: what has throttled since it was last asked, as lines.
        on_step: called with the name of each step as it begins.
        seed: of the gaps between blocks.
    """

    def __init__(
        self,
        run: Callable[[int], Any],
        inputs: int,
        trace: Callable[[], PowerTrace],
        effort: EnergyEffort,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        throttled: Callable[[], List[str]] = list,
        on_step: Callable[[str], None] = lambda step: None,
        seed: int = 0,
    ) -> None:
        self._run = run
        self._inputs = inputs
        self._trace = trace
        self._effort = effort
        self._clock = clock
        self._sleep = sleep
        self._throttled = throttled
        self._on_step = on_step
        self._random = random.Random(seed)
        self._calls = 0

    def record(self) -> Record:
        """Do all of it. What the sampler or the phase raises ends it."""
        effort = self._effort
        before = self._idle("idle before")
        self._on_step("warm-up")
        warm_up = self._warm_up()
        runs = []
        for number in range(1, effort.repeats + 1):
            self._on_step("run {} of {}".format(number, effort.repeats))
            runs.append(self._one_run())
        self._sleep(effort.settle_s)
        after = self._idle("idle after")
        return Record(before, warm_up, runs, after)

    def _idle(self, step: str) -> Span:
        """Wait with everything loaded."""
        self._on_step(step)
        begin = self._clock()
        self._sleep(self._effort.idle_s)
        return begin, self._clock()

    def _warm_up(self) -> Dict[str, Any]:
        """Run until three windows agree in power and in pace."""
        effort, begun = self._effort, self._clock()
        powers_mw: List[float] = []
        paces: List[float] = []
        stable = False
        while not stable and self._clock() - begun < effort.warm_up_max_s:
            window = self._loop(lambda elapsed, calls: elapsed >= effort.window_s)
            begin, end = window[0][0], window[-1][1]
            powers_mw.append(self._mean_mw(begin, end))
            paces.append(sum(count for _, _, count in window) / sum(end - begin for begin, end, _ in window))
            stable = (
                end - begun >= effort.warm_up_s
                and len(powers_mw) >= WINDOWS
                and min(powers_mw[-WINDOWS:]) > 0
                and agree(powers_mw[-WINDOWS:], POWER_AGREES)
                and agree(paces[-WINDOWS:], STABLE_WITHIN)
            )
        return {
            "seconds": round(self._clock() - begun, 3),
            "stable": stable,
            "windows_mw": [round(power, 3) for power in powers_mw],
        }

    def _mean_mw(self, begin: float, end: float) -> float:
        """The power of a window as far as it was read; 0 where it was not."""
        trace = self._trace()
        inside = trace.times_s[(trace.times_s >= begin) & (trace.times_s <= end)]
        try:
            return float(energy_between_mj(trace, inside[0], inside[-1])[0]) / float(inside[-1] - inside[0])
        except (IndexError, ReportError, ZeroDivisionError):
            return 0.0

    def _one_run(self) -> Run:
        """One closed loop, long enough for every bound."""
        effort = self._effort
        self._throttled()
        trace = self._trace()
        refresh_s = interior_of(trace, self._clock() - WINDOWS * effort.window_s, self._clock()).refresh_s
        enough_s = max(effort.run_s, effort.run_refreshes * refresh_s)
        found: List[str] = []
        watched = begun = self._clock()

        def over(elapsed: float, calls: int) -> bool:
            nonlocal enough_s, watched
            if begun + elapsed - watched >= _WATCH_S:
                watched = begun + elapsed
                found.extend(line for line in self._throttled() if line not in found)
            if elapsed >= effort.run_max_s:
                return True
            if elapsed < enough_s or calls < effort.run_inferences:
                return False
            if interior_of(self._trace(), begun, begun + elapsed).readings >= effort.min_readings:
                return True
            enough_s = elapsed + _LONGER * effort.run_s
            return False

        blocks = self._loop(over)
        found.extend(line for line in self._throttled() if line not in found)
        return Run(blocks, found)

    def _loop(self, over: Callable[[float, int], bool]) -> List[Block]:
        """Blocks of inferences until `over(seconds since the begin, inferences)`.

        A sensor that looks at a part of the time only, or averages over its own period, sees a loop of the same
        period always at the same place. Waiting a random time between blocks moves the place. A counter sees all.
        """
        effort = self._effort
        gap_max_s = effort.gap_max_s if self._trace().kind == "power" else 0.0
        blocks: List[Block] = []
        begun, calls = self._clock(), 0
        while True:
            begin = now = self._clock()
            count = 0
            while count == 0 or now - begin < effort.block_s:
                self._run(self._calls % self._inputs)
                self._calls += 1
                count += 1
                now = self._clock()
            blocks.append((begin, now, count))
            calls += count
            if over(now - begun, calls):
                return blocks
            if gap_max_s:
                self._sleep(self._random.uniform(0.0, gap_max_s))
