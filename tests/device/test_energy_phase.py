"""Energy of real phases in real time: a meter beside a loop, a worker, an agent that is interrupted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bottlekit.device.bench import Effort, bench_bundle, bench_phase
from bottlekit.device.bundle import Bundle
from bottlekit.device.children import child_environment
from bottlekit.device.energy_effort import EnergyEffort
from bottlekit.device.energy_phase import PowerRequest, energy_of_phase
from bottlekit.device.errors import MeterError, ReadingError, UnknownNameError, UsageError
from bottlekit.device.meters.meter import Meter
from bottlekit.device.phases import Phase
from bottlekit.device.power_options import PowerOptions, sources_from_words
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from jobs import make_job

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RB1 = os.path.join(HERE, "data", "tiny_fleet", "rb1")
SHORT = Effort(min_samples=5, max_seconds=0.5, warm_up_seconds=0.02)
# The shortest that goes through all of it.
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
    run_max_s=2.0,
    min_readings=5,
    block_s=0.05,
    gap_max_s=0.005,
)
ASKED = PowerRequest("double", "a test", {}, BRIEF)


class Load(Meter):
    """2 W, and 8 W while somebody works; `fails_after` readings it stops."""

    name = "double"
    rails = ("board",)
    boundary = "the board"

    def __init__(self, fails_after=10**9):
        super().__init__()
        self.busy = False
        self.readings = 0
        self.fails_after = fails_after

    def _values(self):
        self.readings += 1
        if self.readings > self.fails_after:
            raise ReadingError("the sensor is gone")
        return ((8000.0 if self.busy else 2000.0) + self.readings % 7,)


def working(meter, seconds=0.01):
    def run(i):
        meter.busy = True
        time.sleep(seconds)
        meter.busy = False

    return Phase("head", 3, run, dict)


def test_a_phase_is_measured_in_real_time():
    meter = Load()
    told = energy_of_phase(working(meter), ASKED, meter)
    # 8 W for 10 ms and a little; on a busy machine sleeping takes several times as long as it should.
    assert 76.0 <= told["repeats"][0]["energy_mj"] < 800.0
    assert told["repeats"][0]["net_energy_mj"] == pytest.approx(0.75 * told["repeats"][0]["energy_mj"], rel=0.25)
    assert (told["meter"], told["boundary"], told["sensor"]["why_chosen"]) == ("double", "the board", "a test")
    trace = PowerTrace.from_dict(json.loads(json.dumps(told["trace"], allow_nan=False)))
    record = told["record"]
    assert trace.times_s[0] < record["idle_before_s"][0] + 0.05
    assert trace.times_s[-1] > record["idle_after_s"][1] - 0.05
    assert len(record["runs"]) == 2
    assert set(told["conditions"]) == {"before", "after"}
    assert told["measured_refresh"]["refresh_ms"] is not None
    assert "partial" not in told


def test_a_sensor_that_stops_gives_a_reason_and_no_energy():
    meter = Load(fails_after=400)
    told = energy_of_phase(working(meter), ASKED, meter)
    assert (told["energy_mj"], told["valid"], told["codes"]) == (None, False, ["meter"])
    assert told["reasons"] == ["the sensor is gone"]


def test_an_interrupt_leaves_what_was_read_marked_partial():
    meter = Load()

    def run(i):
        raise KeyboardInterrupt

    told = energy_of_phase(Phase("head", 3, run, dict), ASKED, meter)
    assert (told["partial"], told["energy_mj"], told["codes"]) == (True, None, ["interrupted"])
    assert len(told["trace"]["times_s"]) > 10
    json.dumps(told, allow_nan=False)


def test_a_machine_without_a_meter_says_why():
    told = energy_of_phase(working(Load()), PowerRequest("none", "no sensor here", {}, BRIEF))
    assert (told["meter"], told["energy_mj"], told["reasons"]) == ("none", None, ["no sensor here"])


# Through a worker


class Rapl:
    """A processor's energy counter below a root of its own, which rises by 5 W until the end of the `with`."""

    def __init__(self, root):
        self.root = str(root)
        self._zone = root / "sys/class/powercap/intel-rapl:0"
        self._zone.mkdir(parents=True)
        (self._zone / "name").write_text("package-0\n")
        (self._zone / "max_energy_range_uj").write_text("262143328850\n")
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rise)
        self._count()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()

    def _count(self):
        # Whole or not at all, as the kernel does.
        new = self._zone / "new"
        new.write_text("{:.0f}\n".format(5e6 * (time.monotonic() - self._begun)))
        os.replace(str(new), str(self._zone / "energy_uj"))

    def _rise(self):
        while not self._over.wait(0.002):
            self._count()


@pytest.mark.slow
def test_a_worker_measures_energy_beside_latency(tmp_path):
    with Rapl(tmp_path) as counter:
        request = PowerRequest("rapl", "a test", {"root": counter.root}, BRIEF)
        entry = bench_bundle(Bundle.load(RB1), {}, ["encode"], SHORT, power=request)
    phase = entry["phases"]["encode"]
    assert len(phase["samples_ms"]) == 5
    energy = phase["energy"]
    # A constant 5 W: all of it is idle's.
    assert energy["repeats"][0]["mean_mw"] == pytest.approx(5000.0, rel=0.05)
    assert energy["idle"]["mean_mw"] == pytest.approx(5000.0, rel=0.05)
    assert energy["trace"]["kind"] == "energy"
    assert energy["sensor"]["name"] == "rapl"
    json.dumps(entry, allow_nan=False)


@pytest.mark.slow
def test_a_worker_that_is_ended_answers_with_what_it_has(tmp_path):
    effort = BRIEF._replace(idle_s=60.0)
    with Rapl(tmp_path) as counter:
        request = PowerRequest("rapl", "a test", {"root": counter.root}, effort)
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
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "bottlekit.device.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
        worker.stdin.write(json.dumps(job).encode())
        worker.stdin.close()
        worker.stdin = None
        # Far behind the latencies and the two seconds of the refresh, on a busy machine, too.
        time.sleep(8.0)
        worker.send_signal(signal.SIGINT)
        time.sleep(0.01)
        worker.send_signal(signal.SIGTERM)
        result = json.loads(worker.communicate(timeout=20)[0].decode())["result"]
    assert result["partial"] is True
    assert len(result["samples_ms"]) == 5
    assert result["energy"]["partial"] is True
    assert len(result["energy"]["trace"]["times_s"]) > 100


def test_an_interrupted_phase_ends_the_bundle_and_stays_in_its_entry(tmp_path, monkeypatch):
    told = {"partial": True, "energy_mj": None}
    monkeypatch.setattr("bottlekit.device.bench.energy_of_phase", lambda phase, power: told)
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


@pytest.mark.slow
def test_an_agent_that_is_interrupted_leaves_a_partial_profile(tmp_path):
    engines, out = tmp_path / "engines", tmp_path / "profile.json"
    job = make_job(tmp_path / "job", kind="onnxruntime")
    building = agent("build", job, "-o", engines)
    building.communicate(timeout=60)
    assert building.returncode == 0
    words = ["bench", RB1, "--engines", engines, "--target", "double", "--phase", "encode", "-o", out]
    words += ["--samples", "5", "--seconds", "0.5", "--warm-up", "0.1", "--power", "--meter", "rapl"]
    with Rapl(tmp_path) as counter:
        process = agent(*(words + ["--meter-source", "root=" + counter.root]))
        time.sleep(15.0)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, complained
    assert not out.exists()
    profile = json.loads((tmp_path / "profile.json.partial").read_text())
    assert profile["partial"] is True
    assert profile["power"]["meter"] == "rapl"
    phase = profile["bundles"][0]["phases"]["encode"]
    assert (phase["partial"], phase["energy"]["codes"]) == (True, ["interrupted"])
    assert b"profile.json.partial" in said


def test_the_agent_lists_meters(tmp_path):
    with Rapl(tmp_path) as counter:
        out, _ = agent("meters", "--meter-source", "root=" + counter.root).communicate(timeout=60)
    rows = {row["name"]: row for row in json.loads(out.decode().splitlines()[-1])["answer"]}
    assert rows["rapl"]["available"] is True
    assert rows["ina3221"]["available"] is False


# Options


def test_options_travel_as_words():
    options = PowerOptions(True, "ina226", ["i2c_bus=1", "shunt_ohm=0.01"], 0, True, True)
    assert options.words() == [
        "--power",
        "--meter",
        "ina226",
        "--meter-source",
        "i2c_bus=1",
        "--meter-source",
        "shunt_ohm=0.01",
        "--power-mode",
        "0",
        "--lock-clocks",
        "--quick",
    ]
    assert PowerOptions().words() == []
    assert PowerOptions(quick=True).given() == []
    assert PowerOptions(power_mode=3).given() == ["--power-mode"]


def test_a_request_survives_its_way_to_a_worker():
    request = PowerRequest("ina3221", "a test", {"rails": ["VDD_IN"], "processor": None}, BRIEF)
    assert PowerRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_sources_are_numbers_truths_lists_or_texts():
    words = [
        "i2c_bus=1",
        "i2c_address=0x41",
        "shunt_ohm=0.01",
        "counter=false",
        "rails=VDD_IN,VDD_SYS_CPU",
        "root=/x",
    ]
    assert sources_from_words(words) == {
        "i2c_bus": 1,
        "i2c_address": 0x41,
        "shunt_ohm": 0.01,
        "counter": False,
        "rails": ["VDD_IN", "VDD_SYS_CPU"],
        "root": "/x",
    }


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["i2c_bus"], UsageError, "NAME=VALUE, not 'i2c_bus'; names: root"),
        (["bus=1"], UnknownNameError, "meter's source 'bus' does not exist; there are: root"),
        (["nvml=1"], UnknownNameError, "meter's source 'nvml' does not exist"),
    ],
)
def test_sources_that_nobody_knows_are_refused(words, error, message):
    with pytest.raises(error, match=message):
        sources_from_words(words)


def test_a_meter_is_chosen_before_anything_is_measured(tmp_path):
    nowhere = ["root=" + str(tmp_path)]
    assert PowerOptions().request([]) is None
    with pytest.raises(MeterError, match="the meter ina3221"):
        PowerOptions(True, "ina3221", nowhere).request([])
    for useless in (PowerOptions(meter="rapl"), PowerOptions(sources=["root=/"])):
        with pytest.raises(UsageError, match="is for --power, which measures energy; add it"):
            useless.request([])
    with Rapl(tmp_path) as counter:
        request = PowerOptions(True, "rapl", ["root=" + counter.root], quick=True).request([])
    assert (request.meter, request.effort.indicative) == ("rapl", True)


def test_a_profile_tells_what_was_asked_for():
    assert PowerOptions().told(None, {"clocks_locked": False}) is None
    assert PowerOptions(lock_clocks=True).told(None, {"clocks_locked": True}) == {
        "power_mode": {"clocks_locked": True}
    }
    told = PowerOptions(True, "double").told(ASKED, {"clocks_locked": False})
    assert (told["meter"], told["why_chosen"], told["effort"]["run_s"]) == ("double", "a test", 0.5)
