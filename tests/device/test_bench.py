import json
import os
import shutil

import numpy as np
import pytest

from bottlekit.device import bench, bench_apart
from bottlekit.device.bench import (
    QUICK,
    Effort,
    bench_bundle,
    bench_phase,
    profile_from_entries,
    timed_calls,
)
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine, engine_file_name, sidecar_path
from bottlekit.device.errors import CodecError, EngineError, UnknownNameError, UsageError
from bottlekit.device.files import sha256_of_file
from bottlekit.device.phases import PHASES, Phase, compare_decoded, loaded_phase, phases_of_bundle
from bottlekit.device.stats import MINIMUM_COUNTS, summary
from bottlekit.device.wire.overhead import framing_overhead_bytes

FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")
SHORT = Effort(min_samples=8, max_seconds=5.0, warm_up_seconds=0.02)


@pytest.fixture
def bundle():
    return Bundle.load(os.path.join(FLEET, "rb1"))


@pytest.fixture
def engine_of(tmp_path, bundle):
    """A function that writes an engine of `bundle` as build would; keywords replace fields of the sidecar."""

    def write(part, source=None, **changes):
        path = str(tmp_path / engine_file_name(bundle.name, part, "cpu", "onnxruntime"))
        shutil.copy(source or bundle.onnx_path(part), path)
        sidecar = {
            "format": "bottlekit-engine",
            "version": 1,
            "bundle": {"name": bundle.name, "sha256": bundle.sha256},
            "part": part,
            "target": "cpu",
            "kind": "onnxruntime",
            "precision": "fp32",
            "key": {},
            "engine_sha256": sha256_of_file(path),
            "engine_bytes": os.path.getsize(path),
            "build_ms": 1.0,
            "golden": {"compared": True, "max_abs": 0.0},
            "log": [],
            "command": "a test",
            "bottlekit": "0",
        }
        sidecar.update(changes)
        with open(sidecar_path(path), "w") as file:
            json.dump(sidecar, file)
        return Engine.load(path)

    return write


@pytest.fixture
def engines(engine_of, bundle):
    return {part: engine_of(part) for part in bundle.parts}


class Clock:
    """Time that passes only when somebody works: `work(ms)`."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, ms):
        self.now += ms / 1e3


def phase_of(run):
    return Phase("head", 3, run, dict)


# The loop


def test_every_call_is_timed_alone_and_inputs_take_turns():
    clock, seen = Clock(), []

    def run(i):
        seen.append(i)
        clock.work(ms=1.0 + i)

    assert timed_calls(phase_of(run), 7, 60.0, clock) == pytest.approx([1, 2, 3, 1, 2, 3, 1], abs=1e-6)
    assert seen == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("work_ms", "count"), [(1.0, 100), (125.0, 8), (1000.0, 5)])
def test_the_loop_ends_with_enough_samples_or_enough_time_but_never_without_a_median(work_ms, count):
    clock = Clock()
    assert len(timed_calls(phase_of(lambda i: clock.work(work_ms)), 100, 1.0, clock)) == count


def test_warming_up_ends_when_three_windows_agree():
    clock = Clock()
    result = bench._warm_up(phase_of(lambda i: clock.work(1.0)), 10.0, clock)
    assert result == {"calls": 3000, "seconds": 3.0, "stable": True}


def test_warming_up_waits_for_a_machine_that_gets_faster():
    clock, calls = Clock(), []

    def run(i):
        calls.append(i)
        clock.work(20.0 if clock.now < 105.0 else 1.0)

    result = bench._warm_up(phase_of(run), 20.0, clock)
    assert result["stable"] is True
    assert 8.0 < result["seconds"] < 14.0


def test_warming_up_ends_in_time_when_nothing_settles():
    clock = Clock()
    # Ever faster, by a third a second.
    result = bench._warm_up(phase_of(lambda i: clock.work(4.0 * 0.75 ** (clock.now - 100.0))), 2.0, clock)
    assert result["stable"] is False
    assert result["seconds"] == pytest.approx(2.0, abs=0.01)


# Correct before fast


@pytest.mark.parametrize("name", PHASES)
def test_every_phase_of_a_bundle_gives_its_golden_outputs(bundle, engines, name):
    with loaded_phase(bundle, name, engines.get(name)) as phase:
        result = phase.compare()
    assert (result["compared"], result["samples"], phase.samples) == (True, 3, 3)


def test_what_is_timed_is_what_the_phase_is_called(bundle, engines):
    golden = bundle.golden()
    for name, key, wanted in (
        ("head", "feature", "feature"),
        ("tail", "logits", "logits"),
        ("full", "logits", "full_logits"),
        ("baseline", "logits", "baseline_logits"),
    ):
        with loaded_phase(bundle, name, engines[name]) as phase:
            for i in range(phase.samples):
                assert phase.run(i)[key][0] == pytest.approx(golden[wanted][i], abs=1e-4)
    payloads = [bundle.codec.encode(feature) for feature in golden["feature"]]
    with loaded_phase(bundle, "encode") as phase:
        assert [phase.run(i) for i in range(phase.samples)] == payloads
    with loaded_phase(bundle, "decode") as phase:
        for i in range(phase.samples):
            np.testing.assert_array_equal(phase.run(i), bundle.codec.decode(payloads[i]))


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_a_lossless_codec_must_be_exact(name):
    raw = Bundle.load(os.path.join(FLEET, "rb2"))
    with loaded_phase(raw, name) as phase:
        result = phase.compare()
    assert (result["max_abs"], result["rms"], result["tolerance"]) == (0.0, 0.0, 0.0)


def test_a_lossless_codec_that_is_off_by_anything_is_wrong(bundle):
    golden = bundle.golden()
    with pytest.raises(CodecError, match="does not give the bundle's golden features"):
        compare_decoded(list(golden["decoded"] + 1e-6), golden["feature"], golden["decoded"], lossy=False)


def test_a_jpeg_library_may_round_otherwise_but_not_lose_more_than_jpeg_does(bundle):
    golden = bundle.golden()
    feature, decoded = golden["feature"], golden["decoded"]
    tolerance = compare_decoded(list(decoded), feature, decoded, lossy=True)["tolerance"]
    assert 0.0 < tolerance < 0.1 * (feature.max() - feature.min())
    near = compare_decoded(list(decoded + np.float32(0.9 * tolerance)), feature, decoded, lossy=True)
    assert near["rms"] == pytest.approx(0.9 * tolerance, rel=1e-5)
    with pytest.raises(CodecError, match="golden features: they differ by"):
        compare_decoded(list(decoded + np.float32(1.1 * tolerance)), feature, decoded, lossy=True)


def test_an_engine_that_gives_other_outputs_is_not_timed(bundle, engine_of):
    other = engine_of("full", source=bundle.onnx_path("baseline"))
    with pytest.raises(EngineError, match="the full of tiny-rb1 does not give the bundle's golden outputs"):
        bench_phase(bundle, "full", other, SHORT)


def test_an_engine_that_was_never_compared_is_not_timed(bundle, engine_of, engines):
    engines["tail"] = engine_of("tail", golden={"compared": False, "why_not": "no GPU here"})
    with pytest.raises(EngineError, match=r"tail-cpu\.onnx is not timed: .* never compared .* \(no GPU here\)"):
        bench_bundle(bundle, engines, effort=SHORT, in_process=True)


def test_a_missing_engine_names_the_command_before_anything_is_measured(bundle, engines):
    started = []
    del engines["baseline"]
    with pytest.raises(EngineError, match="no engine for the baseline of tiny-rb1; build it: bottlekit build"):
        bench_bundle(bundle, engines, effort=SHORT, in_process=True, on_phase=started.append)
    assert started == []


def test_an_engine_of_another_bundle_or_part_is_refused(bundle, engine_of, engines):
    with pytest.raises(EngineError, match=r"holds the head of tiny-rb1 .* not the tail of tiny-rb1"):
        bench_bundle(bundle, dict(engines, tail=engines["head"]), effort=SHORT, in_process=True)
    stranger = engine_of("head", bundle={"name": "net", "sha256": "f" * 64})
    with pytest.raises(EngineError, match="holds the head of net"):
        bench_bundle(bundle, dict(engines, head=stranger), effort=SHORT, in_process=True)


# Entries


def check_entry(entry, bundle, engines):
    assert entry["bundle"] == {
        "name": "tiny-rb1",
        "sha256": bundle.sha256,
        "split": "rb1",
        "split_index": 1,
        "backbone": "tiny",
    }
    for name in ("accuracy", "payload_bytes", "input_jpeg_bytes"):
        assert entry[name] == bundle.manifest[name]
    mean = bundle.manifest["payload_bytes"]["mean"]
    overhead = framing_overhead_bytes(round(mean))
    assert entry["framed_bytes"] == {"request": mean + overhead, "overhead": overhead}
    assert list(entry["phases"]) == ["head", "encode", "decode", "tail", "full", "baseline"]
    for name, phase in entry["phases"].items():
        assert phase["origin"] == "measured"
        assert phase["golden"]["compared"] is True
        assert len(phase["samples_ms"]) == SHORT.min_samples
        assert phase["summary"] == summary(phase["samples_ms"])
        assert phase["summary"]["p90_ms"] is None
        assert phase["warm_up"]["calls"] >= 1
        assert phase["engine_sha256"] == (engines[name].sha256 if name in engines else None)
    json.dumps(entry, allow_nan=False)


def test_an_entry_holds_every_phase_with_raw_samples(bundle, engines):
    started = []
    entry = bench_bundle(bundle, engines, effort=SHORT, threads=1, in_process=True, on_phase=started.append)
    check_entry(entry, bundle, engines)
    assert started == list(entry["phases"])


def test_each_phase_is_measured_in_a_process_of_its_own(bundle, engines, monkeypatch):
    processes = []
    real = bench_apart.subprocess.Popen

    def counting(command, **options):
        processes.append(command)
        return real(command, **options)

    monkeypatch.setattr(bench_apart.subprocess, "Popen", counting)
    entry = bench_bundle(bundle, engines, effort=SHORT, threads=1)
    check_entry(entry, bundle, engines)
    assert len(processes) == 6


def test_errors_of_the_other_process_arrive_as_they_are(bundle, engine_of):
    other = engine_of("full", source=bundle.onnx_path("baseline"))
    with pytest.raises(EngineError, match="does not give the bundle's golden outputs"):
        bench_bundle(bundle, {"full": other}, ["full"], SHORT)


def test_a_process_that_dies_is_reported_with_its_last_words(bundle, engines, monkeypatch):
    monkeypatch.setattr(bench_apart.sys, "executable", shutil.which("false"))
    with pytest.raises(EngineError, match="the process that measured the head of tiny-rb1 ended with code 1"):
        bench_bundle(bundle, engines, ["head"], SHORT)


def test_a_network_that_two_bundles_share_is_measured_once(bundle, engines):
    known = {}
    first = bench_bundle(bundle, engines, ["baseline"], SHORT, in_process=True, measured_before=known)
    again = bench_bundle(bundle, engines, ["baseline", "full"], SHORT, in_process=True, measured_before=known)
    assert again["phases"]["baseline"] is first["phases"]["baseline"]
    assert set(known) == {engines["baseline"].sha256, engines["full"].sha256}


def test_a_shared_networks_power_trace_is_kept_once(bundle, engines, monkeypatch):
    told = {"energy_mj": 1.0, "trace": {"times_s": [0.0] * 1000}, "record": {}}
    monkeypatch.setattr(bench, "energy_of_phase", lambda phase, power, on_step: told)
    known = {}
    options = {"in_process": True, "measured_before": known, "power": "a request"}
    first = bench_bundle(bundle, engines, ["baseline"], SHORT, **options)
    again = bench_bundle(bundle, engines, ["baseline"], SHORT, **options)
    assert first["phases"]["baseline"]["energy"] == told
    assert again["phases"]["baseline"]["energy"] == {"energy_mj": 1.0}
    assert again["phases"]["baseline"]["samples_ms"] == first["phases"]["baseline"]["samples_ms"]


def test_only_the_phases_asked_for_need_engines(bundle):
    entry = bench_bundle(bundle, {}, ["decode", "encode"], SHORT, in_process=True)
    assert list(entry["phases"]) == ["decode", "encode"]


def test_a_bundle_without_a_baseline_has_no_such_phase():
    raw = Bundle.load(os.path.join(FLEET, "rb2"))
    assert phases_of_bundle(raw) == ["head", "encode", "decode", "tail", "full"]
    with pytest.raises(UnknownNameError, match="phase 'baseline' does not exist; there are: head, encode"):
        bench_bundle(raw, {}, ["baseline"], SHORT)


@pytest.mark.parametrize(
    ("effort", "option"),
    [
        (SHORT._replace(min_samples=4), "--samples"),
        (SHORT._replace(max_seconds=0.0), "--seconds"),
        (SHORT._replace(max_seconds=float("nan")), "--seconds"),
        (SHORT._replace(warm_up_seconds=-1.0), "--warm-up"),
        (SHORT._replace(warm_up_seconds=float("inf")), "--warm-up"),
    ],
)
def test_efforts_that_make_no_sense_are_refused_by_option(bundle, effort, option):
    with pytest.raises(UsageError, match=option):
        bench_bundle(bundle, {}, ["encode"], effort, in_process=True)


def test_the_usual_effort_allows_every_percentile_and_the_quick_one_p90():
    assert Effort().min_samples == MINIMUM_COUNTS[99]
    assert QUICK.min_samples == MINIMUM_COUNTS[90]


def test_a_profile_says_what_it_was_made_with(bundle):
    entry = bench_bundle(bundle, {}, ["encode"], SHORT, in_process=True)
    profile = profile_from_entries([entry], "cpu", {"machine": "x"}, "0.1.0", "bottlekit bench")
    assert (profile["format"], profile["version"]) == ("bottlekit-profile", 1)
    assert (profile["target"], profile["environment"]) == ("cpu", {"machine": "x"})
    assert profile["bundles"] == [entry]
