"""Is a known energy found again? Simulated machines, simulated sensors, the real protocol and statistics.

    Truth -> sensor -> trace -> energy_from_record -> interval: holds the truth, or not; in 100 seeded runs a sensor

Nothing is timed and nothing is waited for: the protocol's seven minutes are computed in a tenth of a second.
docs/recovered-energy.md is made of what is found.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from power_truth import Sensor, Work, trace_of, truth_of_protocol

from bottlekit.device.energy import energy_from_record
from bottlekit.device.energy_effort import EnergyEffort

PAGE = Path(__file__).parents[1] / "docs/recovered-energy.md"
CLAIM = (
    "the energy of an inference is recovered within its 99 % interval in at least 95 of 100 runs, for each sensor"
)
SEEDS = 100
NAIVE_INFERENCES = 50
NAIVE_READ_S = 0.1
NEAR = 0.05

# A network of 5.8 ms on a TX2; a GTX 1080 Ti; a laptop's processor. 20 ms is as long as NVML's refresh.
TX2 = Work(idle_mw=3000.0, burst_mw=10500.0, host_mw=6500.0, burst_s=3.8e-3, host_s=2.0e-3)
GPU = Work(idle_mw=55e3, burst_mw=190e3, host_mw=90e3, burst_s=3.5e-3, host_s=1.5e-3)
GPU_20_MS = GPU._replace(burst_s=10e-3, host_s=10e-3, spread=1e-5)
GPU_5_MS = GPU._replace(spread=1e-5)
CPU = Work(idle_mw=8e3, burst_mw=38e3, host_mw=22e3, burst_s=6e-3, host_s=2e-3)

TRIGGERED = Sensor("ina3221", 0.84e-3, 0.84e-3, 0.01, 76.0, 76.0, triggered=True)
# 64 conversions of 1.1 ms; between two of one channel, the five others of the chip.
CONTINUOUS = Sensor("ina3221", 0.4224, 1.1e-3, 0.1, 76.0, 40.0, windows=64, stride_s=6.6e-3)
JTOP = CONTINUOUS._replace(name="jtop", refresh_s=0.5)
# 588 us, four times averaged; current and voltage in turns.
INA226 = Sensor("ina226", 4.704e-3, 588e-6, 0.01, 2.5, 5.0, windows=4, stride_s=1.176e-3)
NVML = Sensor("nvml", 0.02, 0.01, 0.01, 10.0, 100.0)
RAPL = Sensor("rapl", 1e-3, 0.0, 0.01, 0.0153, 0.0, counter=True)


class Case(NamedTuple):
    """A sensor that looks at a machine; `gaps`: blocks are set apart; `proof`: it is one of the claim."""

    title: str
    sensor: Sensor
    work: Work
    gaps: bool = True
    proof: bool = True


CASES = (
    Case("INA3221, triggered", TRIGGERED, TX2),
    Case("INA3221, continuous", CONTINUOUS, TX2),
    Case("jtop", JTOP, TX2),
    Case("INA226", INA226, TX2),
    Case("NVML, loop of 5 ms", NVML, GPU),
    Case("RAPL", RAPL, CPU, gaps=False),
    Case("NVML, rigid loop of 20 ms", NVML, GPU_20_MS),
    Case("NVML, rigid loop of 20 ms, no gaps", NVML, GPU_20_MS, gaps=False, proof=False),
    Case("NVML, rigid loop of 5 ms, no gaps", NVML, GPU_5_MS, gaps=False, proof=False),
    Case("NVML that shows 0.3 % too little", NVML._replace(gain=0.997), GPU, proof=False),
)
NAIVE = (
    Case("INA3221, triggered", TRIGGERED, TX2),
    Case("INA3221, continuous", CONTINUOUS, TX2),
)


def recovered(case: Case, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One measurement a seed: truth, result, interval; `codes` where the measurement was found invalid."""
    effort = EnergyEffort() if case.gaps else EnergyEffort(gap_max_s=0.0)
    found = []
    for seed in seeds:
        random = np.random.RandomState(seed)
        truth = truth_of_protocol(case.work, effort, case.sensor.refresh_s, random)
        energy = energy_from_record(trace_of(truth, case.sensor, random), truth.record, effort)
        found.append(
            {
                "seed": seed,
                "true_mj": [truth.gross_mj, truth.net_mj],
                "energy_mj": [energy["energy_mj"], energy["net_energy_mj"]],
                "energy_ci_mj": [energy["energy_ci_mj"], energy["net_energy_ci_mj"]],
                "codes": energy["codes"],
                "readings": [repeat["readings"] for repeat in energy["repeats"]],
            }
        )
    return found


def held(runs: Sequence[Mapping[str, Any]], which: int) -> int:
    """In how many runs the interval holds the truth; `which` is 0 for gross, 1 for net. An invalid one does not."""
    return sum(
        run["energy_ci_mj"][which] is not None
        and run["energy_ci_mj"][which][0] <= run["true_mj"][which] <= run["energy_ci_mj"][which][1]
        for run in runs
    )


def naive(case: Case, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Fifty inferences, a reading every tenth of a second, their mean times the time: one result a seed."""
    work = case.work
    effort = EnergyEffort(
        idle_s=2.0,
        settle_s=0.1,
        warm_up_s=0.1,
        window_s=0.1,
        repeats=1,
        run_s=NAIVE_INFERENCES * work.inference_s,
        run_refreshes=0,
        block_s=(NAIVE_INFERENCES - 0.5) * work.inference_s,
        gap_max_s=0.0,
    )
    found = []
    for seed in seeds:
        random = np.random.RandomState(seed)
        # Nothing is measured as it is warmed up: whoever takes 50 runs takes the first 50.
        truth = truth_of_protocol(work, effort, 0.0, random)
        trace = trace_of(truth, case.sensor._replace(read_s=NAIVE_READ_S), random)
        (run,) = truth.record.runs
        inside = (trace.times_s >= run.begin_s) & (trace.times_s <= run.end_s)
        mean_mw = float(trace.values[0, inside].mean())
        found.append(
            {
                "seed": seed,
                "true_mj": truth.gross_mj,
                "energy_mj": mean_mw * (run.end_s - run.begin_s) / run.inferences,
                "readings": int(inside.sum()),
            }
        )
    return found


def results(seeds: Sequence[int]) -> dict[str, Any]:
    """Every case with all its runs."""
    return {
        "seeds": len(seeds),
        "cases": {case.title: recovered(case, seeds) for case in CASES},
        "naive": {case.title: naive(case, seeds) for case in NAIVE},
    }


def near(runs: Sequence[Mapping[str, Any]]) -> int:
    """How many naive results come within 5 % of the truth."""
    return sum(abs(run["energy_mj"] / run["true_mj"] - 1.0) <= NEAR for run in runs)


# The page


def page(found: Mapping[str, Any]) -> str:
    """docs/recovered-energy.md."""
    rows = [_row(case, found["cases"][case.title]) for case in CASES]
    naive_rows = [_naive_row(case, found["naive"][case.title]) for case in NAIVE]
    return PROSE.format(
        seeds=found["seeds"],
        head=HEAD,
        proof="\n".join(row for row, case in zip(rows, CASES, strict=True) if case.proof),
        others="\n".join(row for row, case in zip(rows, CASES, strict=True) if not case.proof),
        naive="\n".join(naive_rows),
    )


def _row(case: Case, runs: Sequence[Mapping[str, Any]]) -> str:
    valid = [run for run in runs if not run["codes"]]
    cells = [case.title, f"{case.work.inference_s * 1e3:.1f}", f"{case.sensor.refresh_s * 1e3:.4g}"]
    cells.append("/".join(str(held(runs, which)) for which in (0, 1)))
    for which in (0, 1):
        errors = [abs(run["energy_mj"][which] / run["true_mj"][which] - 1.0) for run in valid]
        widths = [
            0.5 * (run["energy_ci_mj"][which][1] - run["energy_ci_mj"][which][0]) / run["true_mj"][which]
            for run in valid
        ]
        cells += [f"{100 * np.median(errors):.3f}", f"{100 * np.median(widths):.2f}"] if valid else ["–", "–"]
    cells.append(str(len(runs) - len(valid)))
    return f"| {' | '.join(cells)} |"


def _naive_row(case: Case, runs: Sequence[Mapping[str, Any]]) -> str:
    errors = [abs(run["energy_mj"] / run["true_mj"] - 1.0) for run in runs]
    readings = sorted({run["readings"] for run in runs})
    return (
        f"| {case.title} | {' or '.join(map(str, readings))} | {near(runs)} | {100 * np.median(errors):.0f} | "
        f"{100 * max(errors):.0f} |"
    )


PROSE = """# Is a known energy found again?

A number that no one can check is checked where it is known. A simulated machine draws a power that is known at
every moment; a simulated sensor looks at it as the real one would; the protocol and the statistics that
`bottlekit bench --power` uses on a device say what an inference costs, and how far that may be off. This page
is written by `python benchmarks/recovered_energy.py`, with {seeds} seeds for each row. All of it is simulated: it
shows that the method holds, not that a board does.

The machine: an idle floor that wanders by half a per cent; inferences of a burst and a quieter part, whose times
and powers differ by 3 % from one to the next; blocks of a tenth of a second, with gaps of 0 to 20 ms between them
unless the meter counts energy. The protocol is the usual one: 30 s of idle, five runs of 60 s or 200 refreshes,
30 s of idle.

## The protocol

How often the stated 99 % interval held the truth, out of {seeds} (gross/net of idle). Times in ms; errors and half
widths of the interval are medians, in per cent of the truth. A measurement that was rejected did not hold it.

{head}
{proof}

The interval is one of 99 %, not of 95 %: an exact 95 % interval misses five times in a hundred on average, and so
misses more often than that in four of ten such experiments.

## What it does not see

{head}
{others}

* *A rigid loop* takes the same time to a hundred-thousandth. One that takes as long as NVML's refresh is met at
  the same place by every reading, in every run: repeats agree with each other, the interval is narrow, and the
  result is wrong. With gaps between blocks (the last row of the table above) the same loop is recovered, and the
  interval says how well. A loop of 5 ms fits twice into the 10 ms that NVML averages, and does no harm without gaps
  either.
* What is wrong with the sensor itself is in every reading, and repeating does not show it. An interval says how
  well the *reading* is known. What a meter's maker promises for its gain comes on top.

## Fifty runs at ten hertz

The mean of the readings that fall into 50 inferences of 5.8 ms, times their time: in how many of {seeds} seeds it
comes within 5 % of the truth, and by how many per cent it is off. The sensor is read every 100 ms.

| sensor | readings | within 5 % | median error | worst error |
|---|---|---|---|---|
{naive}

Three moments meet bursts and pauses by chance. A sensor that averages for 422 ms shows what was before the runs
began. The protocol rejects such a run, as `too_short` or for its `few_readings`.
"""

HEAD = """| sensor | inference | refresh | held | error, gross | half width | error, net | half width | rejected |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Compute, record, write the page."""
    from record import record

    from bottlekit.device.files import whole_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs for each sensor; the page is for 100")
    found = results(range(parser.parse_args().seeds))
    with whole_file(str(PAGE)) as temporary:
        Path(temporary).write_text(page(found), encoding="utf-8")
    for case in CASES:
        runs = found["cases"][case.title]
        print(f"{case.title:36} gross {held(runs, 0)}, net {held(runs, 1)} of {len(runs)}")
    for case in NAIVE:
        print(f"{'naive: ' + case.title:36} within 5 %: {near(found['naive'][case.title])}")
    print(f"wrote {PAGE} and {record(CLAIM, found)}")


if __name__ == "__main__":
    main()
