"""Energy of real phases in real time: a meter beside a loop, a worker, an agent that is interrupted.

A machine may stall at any moment, for seconds. So nothing here is held against the clock: what was computed is
computed again from the trace and the record that came back, and what must have begun is waited for.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bottlekit.device.bench import Effort, bench_bundle, bench_phase
from bottlekit.device.bundle import Bundle
from bottlekit.device.children import child_environment
from bottlekit.device.energy import energy_from_record
from bottlekit.device.energy_effort import EnergyEffort
from bottlekit.device.energy_phase import PowerRequest, energy_of_phase
from bottlekit.device.energy_protocol import Record, Run
from bottlekit.device.errors import ReadingError
from bottlekit.device.meters.meter import Meter
from bottlekit.device.phases import Phase
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "meters"))
from jetson_double import SET, UNTOUCHED, Board
from jobs import make_job
from meter_doubles import rapl

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RB1 = os.path.join(HERE, "data", "tiny_fleet", "rb1")
SHORT = Effort(min_samples=5, max_seconds=0.5, warm_up_seconds=0.02)
# The shortest that goes through all of it. A run goes on until there were enough readings, however long that takes.
BRIEF = EnergyEffort(
    idle_s=0.4,
    settle_s=0.05,
    warm_up_s=0.1,
    window_s=0.1,
    warm_up_max_s=0.6,
    repeats=2,
    run_s=0.5,
    run_refreshes=0,
    run_inferences=1,
    run_max_s=120.0,
    min_readings=5,
    block_s=0.05,
    gap_max_s=0.005,
)
ASKED = PowerRequest("double", "a test", {}, BRIEF)


class Load(Meter):
    """2 W, and 8 W while somebody works; it stops after `fails_after` readings, or when it is `gone`."""

    name = "double"
    rails = ("board",)
    boundary = "the board"

    def __init__(self, fails_after=10**9):
        super().__init__()
        self.busy = False
        self.readings = 0
        self.fails_after = fails_after
        self.gone = False

    def _values(self):
        self.readings += 1
        if self.gone or self.readings > self.fails_after:
            raise ReadingError("the sensor is gone")
        return ((8000.0 if self.busy else 2000.0) + self.readings % 7,)


def working(meter, seconds=0.01):
    def run(i):
        meter.busy = True
        time.sleep(seconds)
        meter.busy = False

    return Phase("head", 3, run, dict)


def record_from_dict(values):
    """What Record.to_dict wrote."""
    runs = [Run([tuple(block) for block in run["blocks"]], run["throttled"]) for run in values["runs"]]
    return Record(tuple(values["idle_before_s"]), values["warm_up"], runs, tuple(values["idle_after_s"]))


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_phase_is_measured_in_real_time():
    meter = Load()
    told = energy_of_phase(working(meter), ASKED, meter)
    assert (told["meter"], told["boundary"], told["sensor"]["why_chosen"]) == ("double", "the board", "a test")
    assert "partial" not in told
    kept = json.loads(json.dumps(told, allow_nan=False))
    trace, record = PowerTrace.from_dict(kept["trace"]), record_from_dict(kept["record"])
    # What was read and what was done are all that the energy came from.
    again = energy_from_record(trace, record, BRIEF)
    assert again == {name: kept[name] for name in again}
    assert trace.times_s[0] < record.runs[0].begin_s
    assert trace.times_s[-1] > record.runs[-1].end_s
    assert len(record.runs) == 2
    for run in record.runs:
        # Each slept for 10 ms.
        assert run.busy_s >= 0.01 * run.inferences
        during = (trace.times_s >= run.begin_s) & (trace.times_s <= run.end_s)
        assert trace.values[0, during].max() >= 8000.0
    assert trace.values.min() < 2007.0
    assert set(told["conditions"]) == {"before", "after"}
    assert set(told["measured_refresh"]) > {"refresh_ms", "poll_ms"}


@pytest.mark.parametrize("when", ["at once", "under load"])
def test_a_sensor_that_stops_gives_a_reason_and_no_energy(when):
    meter = Load(fails_after=3 if when == "at once" else 10**9)

    def run(i):
        meter.gone = True
        time.sleep(0.01)

    told = energy_of_phase(Phase("head", 3, run, dict), ASKED, meter)
    assert (told["energy_mj"], told["valid"], told["codes"]) == (None, False, ["meter"])
    assert told["reasons"] == ["the sensor is gone"]


def test_an_interrupt_leaves_what_was_read_marked_partial():
    meter, steps = Load(), []

    def run(i):
        read = meter.readings
        wait_for(lambda: meter.readings > read + 10)
        raise KeyboardInterrupt

    told = energy_of_phase(Phase("head", 3, run, dict), ASKED, meter, on_step=steps.append)
    assert (told["partial"], told["energy_mj"], told["codes"]) == (True, None, ["interrupted"])
    assert len(told["trace"]["times_s"]) > 10
    assert steps == ["idle before", "warm-up"]
    json.dumps(told, allow_nan=False)


def test_a_machine_without_a_meter_says_why():
    told = energy_of_phase(working(Load()), PowerRequest("none", "no sensor here", {}, BRIEF))
    assert (told["meter"], told["energy_mj"], told["reasons"]) == ("none", None, ["no sensor here"])


# Through a worker


@pytest.fixture(scope="module")
def five_watts(tmp_path_factory):
    """Ten minutes of an energy counter that rises by 5 W, counted every 10 ms, as a file.

    Each reading of it comes with its own time, so it is right whenever it is taken.
    """
    times_s = np.arange(60000) / 100.0
    counter = PowerTrace(times_s, [5000.0 * times_s], ("package-0",), "energy", 0.01, {"boundary": "CPU package"})
    path = tmp_path_factory.mktemp("recording") / "five_watts.json"
    path.write_text(json.dumps(counter.to_dict()))
    return str(path)


@pytest.mark.slow
def test_a_worker_measures_energy_beside_latency(five_watts):
    request, steps = PowerRequest("replay", "a test", {"trace": five_watts}, BRIEF), []
    entry = bench_bundle(Bundle.load(RB1), {}, ["encode"], SHORT, power=request, on_step=steps.append)
    phase = json.loads(json.dumps(entry, allow_nan=False))["phases"]["encode"]
    assert len(phase["samples_ms"]) == 5
    assert steps == ["idle before", "warm-up", "run 1 of 2", "run 2 of 2", "idle after"]
    energy = phase["energy"]
    assert (energy["meter"], energy["boundary"]) == ("replay", "replayed: CPU package")
    trace, record = PowerTrace.from_dict(energy["trace"]), record_from_dict(energy["record"])
    assert trace.kind == "energy"
    again = energy_from_record(trace, record, BRIEF)
    assert again == {name: energy[name] for name in again}
    # A constant 5 W, all of it idle's; a machine that stalls leaves no power of a time so short, and says so.
    powers_mw = [repeat["mean_mw"] for repeat in energy["repeats"]]
    powers_mw += [energy["idle"]["mean_mw"]] if energy["idle"] is not None else []
    assert powers_mw == pytest.approx([5000.0] * len(powers_mw), rel=1e-3)
    assert len(powers_mw) == 3 or "too_short" in energy["codes"]
    whole_mw = (trace.values[0, -1] - trace.values[0, 0]) / (trace.times_s[-1] - trace.times_s[0])
    assert whole_mw == pytest.approx(5000.0, rel=1e-3)


# Tells when it has read a hundred times.
TELLING_WORKER = """
import sys
from bottlekit.device import bench_worker, energy_phase

class Telling(energy_phase.Sampler):
    def _take(self):
        super()._take()
        if len(self.times_s) == 100:
            print("a hundred readings", file=sys.stderr, flush=True)

energy_phase.Sampler = Telling
bench_worker.main()
"""


@pytest.mark.slow
def test_a_worker_that_is_ended_answers_with_what_it_has(five_watts):
    request = PowerRequest("replay", "a test", {"trace": five_watts}, BRIEF._replace(idle_s=300.0))
    job = {
        "bundle": RB1,
        "parts": Bundle.load(RB1).parts,
        "phase": "encode",
        "engine": None,
        "effort": list(SHORT),
        "threads": None,
        "power": request.to_dict(),
        "fused": True,
        "quantiser": None,
        "server": None,
        "access": [],
        "steps": None,
    }
    worker = subprocess.Popen(
        [sys.executable, "-c", TELLING_WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    worker.stdin.write(json.dumps(job).encode())
    worker.stdin.close()
    worker.stdin = None
    assert worker.stderr.readline() == b"a hundred readings\n"
    # As Ctrl-C at a terminal, where the parent hears it as well, and ends its worker.
    worker.send_signal(signal.SIGINT)
    worker.send_signal(signal.SIGTERM)
    said, complained = worker.communicate(timeout=120)
    assert said, complained
    result = json.loads(said.decode())["result"]
    assert result["partial"] is True
    assert len(result["samples_ms"]) == 5
    assert result["energy"]["partial"] is True
    assert len(result["energy"]["trace"]["times_s"]) >= 100


def test_an_interrupted_phase_ends_the_bundle_and_stays_in_its_entry(tmp_path, monkeypatch):
    told = {"partial": True, "energy_mj": None}
    monkeypatch.setattr("bottlekit.device.bench.energy_of_phase", lambda phase, power, on_step: told)
    entries = []
    with pytest.raises(KeyboardInterrupt):
        bench_bundle(
            Bundle.load(RB1), {}, ["encode", "decode"], SHORT, in_process=True, power=ASKED, on_entry=entries.append
        )
    assert list(entries[0]["phases"]) == ["encode"]
    assert entries[0]["phases"]["encode"]["partial"] is True


def test_without_power_a_phase_has_no_energy():
    assert "energy" not in bench_phase(Bundle.load(RB1), "encode", None, SHORT)


# Through the agent


def agent(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "bottlekit.device.agent"] + [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(OMP_NUM_THREADS="1"),
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    building = agent("build", make_job(folder / "job", kind="onnxruntime"), "-o", folder / "engines")
    building.communicate(timeout=120)
    assert building.returncode == 0
    return folder / "engines"


def measuring(engines, five_watts, *more):
    """An agent that has begun with the half minute in which the machine is idle."""
    words = ["bench", RB1, "--engines", engines, "--target", "double", "--phase", "encode", "--power"]
    words += ["--samples", "5", "--seconds", "0.5", "--warm-up", "0.1"]
    process = agent(*(words + ["--meter", "replay", "--meter-source", "trace=" + five_watts] + list(more)))
    line = process.stdout.readline()
    while b"idle before" not in line:
        assert line, process.communicate()[1]
        line = process.stdout.readline()
    return process


@pytest.mark.slow
def test_an_agent_that_is_interrupted_leaves_a_partial_profile(tmp_path, five_watts, engines):
    out = tmp_path / "profile.json"
    process = measuring(engines, five_watts, "-o", out)
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, complained
    assert not out.exists()
    profile = json.loads((tmp_path / "profile.json.partial").read_text())
    assert profile["partial"] is True
    assert profile["power"]["meter"] == "replay"
    phase = profile["bundles"][0]["phases"]["encode"]
    assert (phase["partial"], phase["energy"]["codes"]) == (True, ["interrupted"])
    assert b"profile.json.partial" in said


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_a_measurement_that_nobody_hears_of_ends_and_restores_the_clocks(
    tmp_path, monkeypatch, five_watts, engines, kept
):
    board = Board(tmp_path)
    monkeypatch.setenv("PATH", "{}{}{}".format(tmp_path, os.pathsep, os.environ["PATH"]))
    words = ["--power-mode", "0", "--lock-clocks"] + (["-o", tmp_path / "profile.json"] if kept else [])
    with measuring(engines, five_watts, *words) as process:
        assert board.state == SET
        # As when the connection drops.
        process.stdout.close()
        if kept:
            # It goes into a file: who listens does not matter.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2.0)
            process.terminate()
        assert process.wait(120) == 128 + signal.SIGTERM
    assert board.state == UNTOUCHED
    assert (tmp_path / "profile.json.partial").exists() is kept


def test_the_agent_lists_meters(tmp_path):
    rapl(tmp_path)
    out, _ = agent("meters", "--meter-source", "root=" + str(tmp_path)).communicate(timeout=120)
    rows = {row["name"]: row for row in json.loads(out.decode().splitlines()[-1])["answer"]}
    assert rows["rapl"]["available"] is True
    assert rows["ina3221"]["available"] is False
