"""How long each phase of a split inference takes on this machine, measured alone.

    bundle, engines --a process per phase--> load, compare with golden, warm up, time --> samples, statistics

Two thread pools in one process take each other's cores and give false numbers, so every phase is timed in a
process of its own that holds one engine. Nothing is timed before its outputs were compared, raw samples are kept,
and a percentile is given only where there are enough of them (`stats`).
"""

import functools
import os
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .bench_apart import result_of_worker
from .bundle import PARTS, Bundle
from .energy_phase import PowerRequest, energy_of_phase
from .engine import Engine
from .errors import UnknownNameError, UsageError
from .link_phases import LINK_PHASES, OPEN, LinkAccess, link_phases, loaded_link_phase
from .phases import Phase, checked_engine, loaded_phase, phases_of_bundle
from .stats import MINIMUM_COUNTS, WINDOWS, medians_agree, percentile_ms, summary
from .wire.overhead import framed_bytes

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
    power: Optional[PowerRequest] = None,
    on_entry: Callable[[Dict[str, Any]], None] = lambda entry: None,
    fused: bool = True,
    server: Optional[str] = None,
    on_step: Callable[[str], None] = lambda step: None,
    access: LinkAccess = OPEN,
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
        power: how to measure the energy of each phase as well; None for not at all.
        on_entry: gets the entry before its first phase; what an interrupted measurement has so far is in it.
        fused: a head on a GPU quantises there, if it can, and is then measured with it; what is left of the
            encoder is measured on codes.
        server: HOST:PORT of the server that `transmit` and `wait` are measured with; None for without them.
        on_step: called with the name of each step of measuring a phase's energy; perhaps in another thread.
        access: what the server asks for.

    Raises:
        EngineError: an engine is missing, of another bundle, was never compared, or gives other outputs now.
        CodecError: the codec gives other values than where the bundle was exported.
        UsageError: an effort that makes no sense, or an unknown phase.
        KeyboardInterrupt: it was interrupted.
    """
    effort = checked_effort(effort if effort is not None else Effort())
    chosen = checked_phases(bundle, engines, phases, server=server)
    known = {} if measured_before is None else measured_before
    measured: Dict[str, Dict[str, Any]] = {}
    manifest = bundle.manifest
    entry = {
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
        "framed_bytes": framed_bytes(manifest["payload_bytes"]["mean"]),
        "macs": manifest.get("macs"),
        "phases": measured,
    }
    on_entry(entry)
    for phase in chosen:
        on_phase(phase)
        engine = engines.get(phase)
        if engine is not None and engine.sha256 in known:
            measured[phase] = _without_raw_power(known[engine.sha256])
            continue
        how = (effort, threads, power, fused, _quantiser_on_gpu(phase, engines, measured), server, access)
        if in_process:
            measured[phase] = bench_phase(bundle, phase, engine, *how, on_step=on_step)
        else:
            measured[phase] = result_of_worker(
                _job(bundle, phase, engine, *how),
                "{} of {}".format(phase, bundle.name),
                on_partial=functools.partial(measured.__setitem__, phase),
                on_step=on_step,
            )
        if measured[phase].get("partial"):
            raise KeyboardInterrupt
        if engine is not None:
            known[engine.sha256] = measured[phase]
    return entry


def _without_raw_power(phase: Dict[str, Any]) -> Dict[str, Any]:
    """A phase that was measured for another bundle: its power trace, which is long, stays with that one."""
    if phase.get("energy") is None:
        return phase
    energy = {name: value for name, value in phase["energy"].items() if name not in ("trace", "record")}
    return dict(phase, energy=energy)


def _quantiser_on_gpu(phase: str, engines: Dict[str, Engine], measured: Dict[str, Dict[str, Any]]) -> Optional[str]:
    """What of the codec's phase the GPU does, "kernel" or "plugin": measured with the head, or in an engine.

    None where the codec does all of it.
    """
    if phase == "encode" and "head" in measured:
        return measured["head"].get("quantiser")
    engine = engines.get({"encode": "head", "decode": "tail"}.get(phase, ""))
    return "plugin" if engine is not None and engine.has_plugin else None


def checked_phases(
    bundle: Bundle,
    engines: Dict[str, Engine],
    phases: Optional[Sequence[str]] = None,
    target: str = "TARGET",
    server: Optional[str] = None,
) -> List[str]:
    """The phases that can be measured: those asked for, all of the bundle's without; each with its engine.

    Raises UnknownNameError for no phase of this bundle; UsageError as `link_phases` does; EngineError for a missing
    or unfit engine, which says to build it for `target`.
    """
    known = phases_of_bundle(bundle) + link_phases(server, phases)
    chosen = known if phases is None else list(phases)
    for phase in chosen:
        if phase not in known:
            raise UnknownNameError("phase", phase, known)
        if phase in PARTS:
            checked_engine(bundle, phase, engines.get(phase), target)
    return chosen


def profile_from_entries(
    entries: List[Dict[str, Any]],
    target: str,
    environment: Dict[str, Any],
    bottlekit: str,
    command: str,
    power: Optional[Dict[str, Any]] = None,
    partial: bool = False,
) -> Dict[str, Any]:
    """The document profile.json: the entries of `bench_bundle`, and on what and with what they were measured.

    `power` is what belongs to all energies, `partial` marks a measurement that was interrupted.
    """
    profile: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "bottlekit": bottlekit,
        "command": command,
        "target": target,
        "environment": environment,
        "bundles": entries,
    }
    if power is not None:
        profile["power"] = power
    if partial:
        profile["partial"] = True
    return profile


def checked_effort(effort: Effort) -> Effort:
    """`effort` if it makes sense, UsageError naming the option otherwise."""
    if effort.min_samples < MINIMUM_COUNTS[50]:
        raise UsageError("--samples must be at least {}, not {}".format(MINIMUM_COUNTS[50], effort.min_samples))
    for name, value in (("--seconds", effort.max_seconds), ("--warm-up", effort.warm_up_seconds)):
        if not 0 < value < float("inf"):
            raise UsageError("{} must be a positive number, not {}".format(name, value))
    return effort


def bench_phase(
    bundle: Bundle,
    phase: str,
    engine: Optional[Engine],
    effort: Effort,
    threads: Optional[int] = None,
    power: Optional[PowerRequest] = None,
    fused: bool = True,
    quantiser: Optional[str] = None,
    server: Optional[str] = None,
    access: LinkAccess = OPEN,
    on_step: Callable[[str], None] = lambda step: None,
) -> Dict[str, Any]:
    """Load one phase, compare it with the golden outputs, warm it up and time it, in this process.

    With `power` its energy is measured after that. A result that was interrupted meanwhile is marked `partial`.
    `fused` and `quantiser` are those of `loaded_phase`, `on_step` is that of `energy_of_phase`.
    """
    linked = loaded_link_phase(bundle, phase, server, access) if phase in LINK_PHASES else None
    with linked or loaded_phase(bundle, phase, engine, threads, fused, quantiser) as loaded:
        golden = loaded.compare()
        warm_up = _warm_up(loaded, effort.warm_up_seconds)
        on_device_ms: List[float] = []
        samples_ms = timed_calls(loaded, effort.min_samples, effort.max_seconds, on_device_ms=on_device_ms)
        energy = None if power is None else energy_of_phase(loaded, power, on_step=on_step)
    result: Dict[str, Any] = {
        "origin": "measured",
        "kind": None if engine is None else engine.kind,
        "precision": None if engine is None else engine.precision,
        "engine_sha256": None if engine is None else engine.sha256,
        "engine_bytes": None if engine is None else engine.sidecar["engine_bytes"],
        "golden": golden,
        "warm_up": warm_up,
        "samples_ms": samples_ms,
        "summary": summary(samples_ms),
    }
    if on_device_ms:
        result["device_samples_ms"] = on_device_ms
        result["device_summary"] = summary(on_device_ms)
    told = (("quantiser", loaded.quantiser), ("why_not_fused", loaded.why_not_fused), ("link", loaded.link))
    result.update((name, value) for name, value in told if value is not None)
    if energy is not None:
        result["energy"] = energy
        if energy.get("partial"):
            result["partial"] = True
    return result


def timed_calls(
    phase: Phase,
    min_samples: int,
    max_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    on_device_ms: Optional[List[float]] = None,
) -> List[float]:
    """Run the golden inputs in turn and time each call; the samples in ms, in the order they were taken.

    `on_device_ms` gets the GPU's own time of each call, where it has one; the call's time is the host's. Ends with
    `min_samples`, or after `max_seconds` with at least as many as a median needs.
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
        on_device = phase.device_ms()
        if on_device is not None and on_device_ms is not None:
            on_device_ms.append(round(on_device, 6))
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


def _job(
    bundle: Bundle,
    phase: str,
    engine: Optional[Engine],
    effort: Effort,
    threads: Optional[int],
    power: Optional[PowerRequest],
    fused: bool,
    quantiser: Optional[str],
    server: Optional[str],
    access: LinkAccess,
) -> Dict[str, Any]:
    """What a worker has to measure."""
    return {
        "bundle": os.path.abspath(bundle.path),
        "parts": list(bundle.parts),
        "phase": phase,
        "engine": None if engine is None else os.path.abspath(engine.path),
        "effort": list(effort),
        "threads": threads,
        "power": None if power is None else power.to_dict(),
        "fused": fused,
        "quantiser": quantiser,
        "server": server,
        "access": list(access),
    }
