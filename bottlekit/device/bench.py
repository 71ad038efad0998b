"""How long each phase of a split inference takes on this machine, measured alone.

    bundle, engines --a process per phase--> load, compare with golden, warm up, time --> samples, statistics

Two thread pools in one process take each other's cores and give false numbers, so every phase is timed in a
process of its own that holds one engine. Nothing is timed before its outputs were compared, raw samples are kept,
and a percentile is given only where there are enough of them (`stats`).
"""

import json
import os
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .bundle import PARTS, Bundle
from .children import child_environment
from .engine import Engine
from .errors import EngineError, UnknownNameError, UsageError, WireError, error_from_words
from .phases import Phase, checked_engine, loaded_phase, phases_of_bundle
from .stats import MINIMUM_COUNTS, WINDOWS, medians_agree, percentile_ms, summary
from .wire.overhead import framing_overhead_bytes

FORMAT = "bottlekit-profile"
VERSION = 1

# A warm-up window lasts this fraction of the time allowed, and holds enough calls for a median.
_WINDOW_FRACTION = 0.1
_WINDOW_CALLS = MINIMUM_COUNTS[50]


class Effort(NamedTuple):
    """How long to measure a phase: until it has `min_samples`, or for `max_seconds` if that comes first.

    Before that it runs until three successive windows agree, `warm_up_seconds` at most.
    """

    min_samples: int = MINIMUM_COUNTS[99]
    max_seconds: float = 20.0
    warm_up_seconds: float = 2.0


# Enough for p90, and not for longer.
QUICK = Effort(min_samples=MINIMUM_COUNTS[90], max_seconds=3.0, warm_up_seconds=0.5)


def bench_bundle(
    bundle: Bundle,
    engines: Dict[str, Engine],
    phases: Optional[Sequence[str]] = None,
    effort: Optional[Effort] = None,
    threads: Optional[int] = None,
    in_process: bool = False,
    on_phase: Callable[[str], None] = lambda phase: None,
    measured_before: Optional[Dict[str, Dict[str, Any]]] = None,
) -> Dict[str, Any]:
    """Measure a bundle's phases; returns its entry for a profile.

    Args:
        bundle: what is measured.
        engines: part -> engine; every phase that is no codec's needs one.
        phases: which; None for all that the bundle has.
        effort: how long; None for enough samples for every percentile.
        threads: for one operator of an engine; None for all cores.
        in_process: measure in this process; the numbers are then only indicative.
        on_phase: called with a phase's name before it is measured.
        measured_before: phases by their engine's hash, added to. The bundles of a fleet carry the same uncompressed
            network: it is measured once, and the figures of all bundles agree.

    Raises:
        EngineError: an engine is missing, of another bundle, was never compared, or gives other outputs now.
        CodecError: the codec gives other values than where the bundle was exported.
        UsageError: an effort that makes no sense, or an unknown phase.
    """
    effort = checked_effort(effort if effort is not None else Effort())
    chosen = checked_phases(bundle, engines, phases)
    known = {} if measured_before is None else measured_before
    measure = bench_phase if in_process else _bench_phase_apart
    measured = {}
    for phase in chosen:
        on_phase(phase)
        engine = engines.get(phase)
        if engine is not None and engine.sha256 in known:
            measured[phase] = known[engine.sha256]
            continue
        measured[phase] = measure(bundle, phase, engine, effort, threads)
        if engine is not None:
            known[engine.sha256] = measured[phase]
    manifest = bundle.manifest
    return {
        "bundle": {
            "name": bundle.name,
            "sha256": bundle.sha256,
            "split": bundle.split["name"],
            "split_index": bundle.split["index"],
            "backbone": manifest["model"]["backbone"],
        },
        "accuracy": manifest["accuracy"],
        "payload_bytes": manifest["payload_bytes"],
        "input_jpeg_bytes": manifest.get("input_jpeg_bytes"),
        "framed_bytes": _framed_bytes(manifest["payload_bytes"]["mean"]),
        "phases": measured,
    }


def checked_phases(
    bundle: Bundle, engines: Dict[str, Engine], phases: Optional[Sequence[str]] = None, target: str = "TARGET"
) -> List[str]:
    """The phases that can be measured: those asked for, all of the bundle's without; each with its engine.

    Raises UnknownNameError for no phase of this bundle; EngineError for a missing or unfit engine, which says to
    build it for `target`.
    """
    known = phases_of_bundle(bundle)
    chosen = known if phases is None else list(phases)
    for phase in chosen:
        if phase not in known:
            raise UnknownNameError("phase", phase, known)
        if phase in PARTS:
            checked_engine(bundle, phase, engines.get(phase), target)
    return chosen


def profile_from_entries(
    entries: List[Dict[str, Any]], target: str, environment: Dict[str, Any], bottlekit: str, command: str
) -> Dict[str, Any]:
    """The document profile.json: the entries of `bench_bundle`, and on what and with what they were measured."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "bottlekit": bottlekit,
        "command": command,
        "target": target,
        "environment": environment,
        "bundles": entries,
    }


def _framed_bytes(payload_bytes: float) -> Optional[Dict[str, float]]:
    """What is sent for a mean payload, all of it and without the payload; None on a machine without Thrift."""
    try:
        overhead = framing_overhead_bytes(round(payload_bytes))
    except WireError:
        return None
    return {"request": payload_bytes + overhead, "overhead": overhead}


def checked_effort(effort: Effort) -> Effort:
    """`effort` if it makes sense, UsageError naming the option otherwise."""
    if effort.min_samples < MINIMUM_COUNTS[50]:
        raise UsageError("--samples must be at least {}, not {}".format(MINIMUM_COUNTS[50], effort.min_samples))
    for name, value in (("--seconds", effort.max_seconds), ("--warm-up", effort.warm_up_seconds)):
        if not 0 < value < float("inf"):
            raise UsageError("{} must be a positive number, not {}".format(name, value))
    return effort


def bench_phase(
    bundle: Bundle, phase: str, engine: Optional[Engine], effort: Effort, threads: Optional[int] = None
) -> Dict[str, Any]:
    """Load one phase, compare it with the golden outputs, warm it up and time it, in this process."""
    with loaded_phase(bundle, phase, engine, threads) as loaded:
        golden = loaded.compare()
        warm_up = _warm_up(loaded, effort.warm_up_seconds)
        samples_ms = timed_calls(loaded, effort.min_samples, effort.max_seconds)
    return {
        "origin": "measured",
        "kind": None if engine is None else engine.kind,
        "precision": None if engine is None else engine.precision,
        "engine_sha256": None if engine is None else engine.sha256,
        "golden": golden,
        "warm_up": warm_up,
        "samples_ms": samples_ms,
        "summary": summary(samples_ms),
    }


def timed_calls(
    phase: Phase, min_samples: int, max_seconds: float, clock: Callable[[], float] = time.perf_counter
) -> List[float]:
    """Run the golden inputs in turn and time each call; the samples in ms, in the order they were taken.

    Ends with `min_samples`, or after `max_seconds` with at least as many as a median needs.
    """
    samples_ms: List[float] = []
    run, count = phase.run, phase.samples
    begun = clock()
    while len(samples_ms) < min_samples:
        i = len(samples_ms) % count
        started = clock()
        run(i)
        ended = clock()
        samples_ms.append(round((ended - started) * 1e3, 6))
        if ended - begun >= max_seconds and len(samples_ms) >= MINIMUM_COUNTS[50]:
            break
    return samples_ms


def _warm_up(phase: Phase, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Dict[str, Any]:
    """Run until the medians of three successive windows agree, or until `seconds` are over."""
    medians: List[float] = []
    calls, stable, begun = 0, False, clock()
    while not stable and clock() - begun < seconds:
        window: List[float] = []
        window_begun = clock()
        while len(window) < _WINDOW_CALLS or clock() - window_begun < seconds * _WINDOW_FRACTION:
            started = clock()
            phase.run(calls % phase.samples)
            window.append((clock() - started) * 1e3)
            calls += 1
            if clock() - begun >= seconds:
                break
        median = percentile_ms(window, 50)
        if median is not None:
            medians.append(median)
        stable = len(medians) >= WINDOWS and medians_agree(medians[-WINDOWS:])
    return {"calls": calls, "seconds": round(clock() - begun, 3), "stable": stable}


def _bench_phase_apart(
    bundle: Bundle, phase: str, engine: Optional[Engine], effort: Effort, threads: Optional[int]
) -> Dict[str, Any]:
    """`bench_phase` in a new process, which holds nothing but this phase."""
    job = {
        "bundle": os.path.abspath(bundle.path),
        "parts": list(bundle.parts),
        "phase": phase,
        "engine": None if engine is None else os.path.abspath(engine.path),
        "effort": list(effort),
        "threads": threads,
    }
    worker = subprocess.run(
        [sys.executable, "-m", "bottlekit.device.bench_worker"],
        input=json.dumps(job).encode("utf-8"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    try:
        answer = json.loads(worker.stdout.decode("utf-8"))
    except ValueError:
        lines = worker.stderr.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise EngineError(
            "the process that measured the {} of {} ended with code {}: {}".format(
                phase, bundle.name, worker.returncode, last
            )
        )
    if "error" in answer:
        raise error_from_words(answer["error"]["kind"], answer["error"]["message"])
    result: Dict[str, Any] = answer["result"]
    return result
