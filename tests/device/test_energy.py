"""The protocol on a machine whose power is known, and every reason for which it gives no energy."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.energy import energy_from_record, no_energy
from bottlekit.device.energy_doubts import doubts_of_run
from bottlekit.device.energy_effort import QUICK_ENERGY, EnergyEffort, checked_energy_effort
from bottlekit.device.energy_protocol import Protocol, Run
from bottlekit.device.errors import UsageError
from bottlekit.device.integrate import interior_of
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parent))
from power_double import Machine

# All of the protocol, a tenth of its time.
SHORT = EnergyEffort(
    idle_s=6.0,
    settle_s=1.0,
    warm_up_s=3.0,
    window_s=1.0,
    warm_up_max_s=12.0,
    run_s=6.0,
    run_refreshes=200,
    run_inferences=100,
    run_max_s=60.0,
)


def protocol(machine, effort=SHORT, **options):
    return Protocol(machine.run, 3, machine.trace, effort, machine.clock, machine.sleep, **options)


def measured(machine, effort=SHORT, **options):
    record = protocol(machine, effort, **options).record()
    return record, energy_from_record(machine.trace(), record, effort)


# The order and the lengths


def test_the_whole_protocol_takes_the_times_of_the_sheet():
    machine, steps, effort = Machine(period_s=0.05), [], EnergyEffort()
    record = protocol(machine, effort, on_step=steps.append).record()
    assert steps == ["idle before", "warm-up"] + ["run {} of 5".format(i) for i in range(1, 6)] + ["idle after"]
    for begin, end in (record.idle_before_s, record.idle_after_s):
        assert end - begin == pytest.approx(30.0)
    assert record.warm_up["seconds"] >= 10.0
    assert record.warm_up["stable"] is True
    assert len(record.runs) == 5
    for run in record.runs:
        assert 60.0 <= run.end_s - run.begin_s < 61.0
        assert run.inferences >= 1000
        assert all(0.1 <= end - begin < 0.125 for begin, end, _ in run.blocks)
        gaps = [after[0] - before[1] for before, after in zip(run.blocks, run.blocks[1:])]
        assert 0.0 <= min(gaps) < 0.001
        assert 0.019 < max(gaps) <= 0.02
    assert record.idle_after_s[0] - record.runs[-1].end_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("changes", "machine", "seconds"),
    [
        # 200 refreshes of 0.5 s.
        ({"run_max_s": 200.0}, {"period_s": 0.5}, 100.0),
        # 100 inferences of 0.3 s, with gaps of 10 ms.
        ({}, {"work_s": 0.3}, 31.0),
        ({"run_s": 20.0}, {}, 20.0),
        ({"run_max_s": 7.0}, {"work_s": 0.3}, 7.2),
    ],
)
def test_a_run_is_as_long_as_its_longest_bound(changes, machine, seconds):
    machine = Machine(**machine)
    machine.refresh_s = max(0.02, machine.period_s)
    effort = SHORT._replace(repeats=2, **changes)
    for run in protocol(machine, effort).record().runs:
        assert run.end_s - run.begin_s == pytest.approx(seconds, rel=0.03)


def test_a_run_goes_on_until_there_are_enough_readings():
    machine = Machine()
    # Half a watt a step and little noise: the reading changes a few times a second.
    machine.quantum_mw, machine.noise_mw = 500.0, 100.0
    record, result = measured(machine, SHORT._replace(repeats=2, gap_max_s=0.0, idle_s=20.0))
    for run, repeat in zip(record.runs, result["repeats"]):
        assert run.end_s - run.begin_s > 7.0
        assert repeat["readings"] >= 95


def test_a_counter_needs_no_gaps():
    machine = Machine(kind="energy")
    for run in protocol(machine).record().runs:
        assert run.busy_s == pytest.approx(run.end_s - run.begin_s)


def test_inputs_take_turns_through_all_of_it():
    machine, seen = Machine(), []
    run = machine.run
    machine.run = lambda i: (seen.append(i), run(i))
    protocol(machine, SHORT._replace(repeats=2)).record()
    assert seen == [i % 3 for i in range(len(seen))]


# What comes out


@pytest.mark.parametrize("kind", ["power", "energy"])
def test_gross_and_net_are_those_of_the_machine(kind):
    record, result = measured(Machine(kind=kind))
    # 8 W for 20 ms; 2 W of it are there anyway.
    assert result["energy_mj"] == pytest.approx(160.0, rel=2e-3)
    assert result["net_energy_mj"] == pytest.approx(120.0, rel=2e-3)
    for name, truth in (("energy_ci_mj", 160.0), ("net_energy_ci_mj", 120.0)):
        low, high = result[name]
        # A counter without noise gives an interval of nothing.
        assert low - 1e-6 * truth <= truth <= high + 1e-6 * truth
        assert high - low < 0.02 * truth
    assert (result["valid"], result["reasons"], result["indicative"]) == (True, [], False)
    assert (result["meter"], result["boundary"], result["confidence"]) == ("double", "the board", 0.99)
    assert result["idle"]["mean_mw"] == pytest.approx(2000.0, rel=5e-3)
    assert [repeat["outlier"] for repeat in result["repeats"]] == [False] * 5
    assert result["rails_mj"]["chip"]["energy_mj"] == pytest.approx(result["rails_mj"]["board"]["energy_mj"] / 4)
    assert result["rails_mj"]["board"]["net_energy_mj"] == pytest.approx(result["net_energy_mj"])
    json.dumps([result, record.to_dict()], allow_nan=False)


def test_gaps_between_blocks_are_nobodys_energy():
    none = measured(Machine(), SHORT._replace(gap_max_s=0.0))[1]
    much = measured(Machine(), SHORT._replace(gap_max_s=0.05))[1]
    assert much["repeats"][0]["busy_seconds"] < 0.85 * much["repeats"][0]["seconds"]
    for name in ("energy_mj", "net_energy_mj"):
        assert much[name] == pytest.approx(none[name], rel=5e-3)


def test_a_short_run_is_indicative_and_says_so():
    record, result = measured(Machine(), QUICK_ENERGY)
    assert [round(run.end_s - run.begin_s) for run in record.runs] == [10] * 3
    assert (result["indicative"], result["valid"]) == (True, True)


def test_no_meter_is_told_with_its_reason():
    told = no_energy("none", "none", "no sensor here")
    assert (told["energy_mj"], told["valid"], told["reasons"]) == (None, False, ["no sensor here"])


# Reasons


def refused(result, code):
    """The reasons with this code, of a result that has no energy."""
    assert (result["valid"], result["energy_mj"], result["net_energy_mj"]) == (False, None, None)
    assert result["energy_ci_mj"] is None
    assert len(result["reasons"]) == len(result["codes"])
    found = [reason for reason, one in zip(result["reasons"], result["codes"]) if one == code]
    assert found, result["codes"]
    return found


def test_idle_power_that_drifted_makes_it_invalid():
    machine = Machine()

    def warmer(now):
        machine.idle_mw = 2000.0 if now < 1020.0 else 2100.0

    machine.at = warmer
    (reason,) = refused(measured(machine)[1], "idle_drift")
    assert reason.startswith("idle power drifted by ")
    assert reason.endswith(" mW")


def test_a_machine_that_never_settles_makes_it_invalid():
    machine = Machine()

    def restless(now):
        machine.busy_mw = 8000.0 if int(now) % 2 else 6000.0

    machine.at = restless
    record, result = measured(machine)
    assert record.warm_up["stable"] is False
    (reason,) = refused(result, "warm_up")
    assert reason.startswith("it never settled: after 12")


def test_warming_up_waits_for_a_machine_that_settles_late():
    machine = Machine()

    def settling(now):
        machine.busy_mw = 8000.0 + 400.0 * max(0.0, 1012.0 - now)

    machine.at = settling
    record, result = measured(machine)
    assert 5.0 < record.warm_up["seconds"] < 10.0
    assert result["valid"] is True


def test_throttling_makes_it_invalid_and_names_the_run():
    machine, asked = Machine(), []

    def throttled():
        asked.append(machine.now)
        return ["SW thermal slowdown"] if 1018.0 < machine.now < 1020.0 else []

    record, result = measured(machine, throttled=throttled)
    throttled_runs = [i for i, run in enumerate(record.runs, start=1) if run.throttled]
    assert len(throttled_runs) == 1
    reasons = refused(result, "throttled")
    assert reasons == ["run {}: throttled: SW thermal slowdown".format(throttled_runs[0])]
    assert np.median(np.diff(asked)) < 1.2


def test_what_throttled_before_a_run_is_not_the_runs():
    machine = Machine()
    waiting = ["warm-up was hot"]
    record, result = measured(machine, throttled=lambda: [waiting.pop()] if waiting else [])
    assert [run.throttled for run in record.runs] == [[]] * 5
    assert result["valid"] is True


def test_power_that_drifts_within_a_run_makes_it_invalid():
    machine = Machine()

    def hotter(now):
        machine.busy_mw = 8000.0 + (100.0 * (now - 1020.0) if 1020.0 < now < 1030.0 else 0.0)

    machine.at = hotter
    assert any("power drifted" in reason for reason in refused(measured(machine)[1], "power_drift"))


def test_noise_is_no_drift():
    # Thirds of this run differ by more than 5 %, but no more than readings that scatter by a third make them.
    random = np.random.RandomState(0)
    times = np.arange(0, 6.0, 0.02)
    while True:
        powers = np.maximum(random.normal(8000.0, 2700.0, times.size), 1.0)
        thirds = [part.mean() for part in np.array_split(powers, 3)]
        if max(thirds) > 1.07 * min(thirds):
            break
    run = Run([(0.1 * i, 0.1 * (i + 1), 5) for i in range(60)], [])
    trace = PowerTrace(times, powers[np.newaxis], ("board",), "power", 0.02, {})

    def codes(trace):
        interior = interior_of(trace, run.begin_s, run.end_s)
        return [reason.code for reason in doubts_of_run(trace, run, interior, 2000.0, SHORT)]

    assert codes(trace) == []
    drifting = trace._replace(values=trace.values * np.linspace(0.75, 1.25, times.size))
    assert codes(drifting) == ["power_drift"]


def test_a_pace_that_changes_within_a_run_makes_it_invalid():
    machine = Machine()

    def slower(now):
        machine.work_s = 0.02 if now < 1020.0 else 0.03

    machine.at = slower
    assert "the pace changed" in refused(measured(machine)[1], "pace_drift")[0]


def test_too_few_inferences_in_the_most_time_make_it_invalid():
    result = measured(Machine(work_s=0.3), SHORT._replace(run_max_s=8.0))[1]
    assert refused(result, "few_inferences")[0].startswith("run 1: 26 inferences in 8 s; it takes 100")


def test_a_sensor_that_hardly_changes_makes_it_invalid():
    machine = Machine()
    machine.quantum_mw, machine.noise_mw = 4000.0, 0.0
    result = measured(machine, SHORT._replace(gap_max_s=0.0))[1]
    assert refused(result, "few_readings")[0] == "run 1: 1 distinct readings; it takes 100"


def test_a_trace_with_a_hole_makes_it_invalid():
    machine = Machine()
    record = protocol(machine).record()
    trace = machine.trace()
    middle = 0.5 * (record.runs[2].begin_s + record.runs[2].end_s)
    kept = np.abs(trace.times_s - middle) > 0.5
    holed = trace._replace(times_s=trace.times_s[kept], values=trace.values[:, kept])
    reasons = refused(energy_from_record(holed, record, SHORT), "gap")
    assert reasons == ["run 3: no reading for 1.01 s; more than 5 refreshes of 0.02 s are too much"]


def test_a_trace_that_ends_early_has_no_energy_at_all():
    machine = Machine()
    record = protocol(machine).record()
    trace = machine.trace()
    kept = trace.times_s < record.runs[2].begin_s
    result = energy_from_record(
        trace._replace(times_s=trace.times_s[kept], values=trace.values[:, kept]), record, SHORT
    )
    assert any(reason.startswith("idle after: ") for reason in refused(result, "too_short"))
    assert (result["idle"], result["repeats"], result["rails_mj"]) == (None, [], {})
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("number", [float("nan"), -5.0])
def test_readings_that_cannot_be_are_never_averaged_away(number):
    machine = Machine()
    record = protocol(machine).record()
    trace = machine.trace()
    trace.values[0, int(np.searchsorted(trace.times_s, record.runs[1].begin_s)) + 100] = number
    result = energy_from_record(trace, record, SHORT)
    refused(result, "not_a_number" if number != number else "negative")
    assert len(result["repeats"]) == 4
    json.dumps(result, allow_nan=False)


def test_one_odd_run_is_flagged_and_kept():
    machine = Machine()
    record = protocol(machine).record()
    fewer = record.runs[3].blocks[: len(record.runs[3].blocks) // 2]
    odd = record.runs[3]._replace(blocks=fewer + [record.runs[3].blocks[-1]])
    record = record._replace(runs=record.runs[:3] + [odd] + record.runs[4:])
    result = energy_from_record(machine.trace(), record, SHORT)
    assert [repeat["outlier"] for repeat in result["repeats"]] == [False, False, False, True, False]


def test_an_interrupt_goes_through():
    machine = Machine()

    def interrupted(now):
        if now > 1020.0:
            raise KeyboardInterrupt

    machine.at = interrupted
    with pytest.raises(KeyboardInterrupt):
        measured(machine)


# Efforts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"repeats": 1}, "repeats of an energy measurement must be at least 2, not 1"),
        ({"idle_s": -1.0}, "idle_s of an energy measurement must be at least 0"),
        ({"run_s": float("nan")}, "run_s of"),
        ({"run_s": float("inf")}, "run_s of"),
        ({"block_s": 0.0}, "block_s of an energy measurement must be more than 0"),
    ],
)
def test_efforts_that_make_no_sense_are_refused_by_name(changes, words):
    with pytest.raises(UsageError, match=words):
        checked_energy_effort(EnergyEffort()._replace(**changes))


def test_the_usual_efforts_make_sense():
    for effort in (EnergyEffort(), QUICK_ENERGY):
        assert checked_energy_effort(effort) == effort
