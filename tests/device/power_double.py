"""A machine that exists in numbers only: time that passes when somebody works or sleeps, and power that is known.

`Machine` is clock, sleep, workload and sampler in one. An hour of it takes well under a second.
"""

import numpy as np

from bottlekit.device.power_trace import PowerTrace


class Machine:
    """Idle at `idle_mw`; an inference takes `work_s` and draws `busy_mw`.

    A sensor reads the true power every `period_s`, to `quantum_mw`, with noise. `at(seconds)` is called as time
    passes, before each step: a test may change the machine there, or raise.
    """

    def __init__(self, idle_mw=2000.0, busy_mw=8000.0, work_s=0.02, period_s=0.01, kind="power", seed=1):
        self.idle_mw = idle_mw
        self.busy_mw = busy_mw
        self.work_s = work_s
        self.period_s = period_s
        self.kind = kind
        self.noise_mw = 20.0
        self.quantum_mw = 1.0
        self.refresh_s = 0.02
        self.calls = 0
        self.at = lambda now: None
        self.now = 1000.0
        self.random = np.random.RandomState(seed)
        # True power from a moment to the next.
        self._moments = [self.now]
        self._powers = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self._pass(seconds, self.idle_mw)

    def run(self, i):
        self.calls += 1
        self._pass(self.work_s, self.busy_mw)

    def _pass(self, seconds, power_mw):
        self.at(self.now)
        # In short steps, so that what a test changes meanwhile shows.
        self.now += seconds
        self._moments.append(self.now)
        self._powers.append(power_mw)

    def trace(self):
        """What the sampler has so far: the true power averaged over a period, as a sensor shows it."""
        moments = np.array(self._moments)
        energies = np.concatenate([[0.0], np.cumsum(np.diff(moments) * np.array(self._powers))])
        times = np.arange(1, int((self.now - moments[0]) / self.period_s) + 1) * self.period_s + moments[0]
        counted = np.interp(times, moments, energies)
        before = np.interp(times - self.period_s, moments, energies)
        if self.kind == "energy":
            values = np.round(counted * 1e3) / 1e3
        else:
            random = np.random.RandomState(7)
            noisy = (counted - before) / self.period_s + random.normal(0.0, self.noise_mw, times.size)
            values = np.maximum(np.round(noisy / self.quantum_mw) * self.quantum_mw, 0.0)
        return PowerTrace(
            times,
            np.array([values, 0.25 * values]),
            ("board", "chip"),
            self.kind,
            self.refresh_s,
            {"name": "double", "boundary": "the board"},
        )
