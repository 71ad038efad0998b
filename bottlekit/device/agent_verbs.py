"""What the agent does with numpy: compare engines, measure them, and classify images through a server."""

import functools
import sys
from typing import Any, Callable, Dict, List, Set, Tuple

from .. import __version__
from .bench import QUICK, Effort, bench_bundle, checked_effort, checked_phases, profile_from_entries
from .bundle import Bundle, fleet_from_path
from .client import SplitClient
from .engine import Engine, engines_for_bundle
from .environment import environment
from .errors import BundleError, EngineError, UnknownNameError, UsageError
from .files import write_json
from .golden import compare_with_golden, tolerance_from_name
from .images import image_from_file
from .link_phases import LinkAccess, check_server, link_phases
from .phases import phases_of_bundle
from .power_mode import power_mode
from .power_options import PowerOptions
from .runners import runner_from_engine
from .wire.addresses import address_from_text

Say = Callable[[str], None]


def compare(options: Any, say: Say) -> Dict[str, Any]:
    """Run engines on the golden inputs: the comparison of each, by bundle and part.

    EngineError for the first that gives other outputs.
    """
    compared: Dict[str, Any] = {}
    for bundle in fleet_from_path(options.bundle, whole=False):
        engines = engines_for_bundle(options.engines, bundle, options.target)
        reports = {}
        for part in _chosen(options.part, sorted(engines), "part"):
            engine = engines[part]
            with runner_from_engine(engine) as runner:
                reports[part] = compare_with_golden(runner, bundle, part, tolerance_from_name(engine.precision))
            say("the {} of {} gives the golden outputs".format(part, bundle.name))
        compared[bundle.name] = reports
    return {"target": options.target, "compared": compared}


def bench(
    options: Any, say: Say, tell: Callable[[str, Dict[str, Any]], None] = lambda event, fields: None
) -> Dict[str, Any]:
    """Measure the phases of a fleet whose engines are here; the profile, or where it was written.

    `tell` gets the empty profile as "begun", and each phase, when the next one begins, as "measured".
    """
    usual = QUICK if options.quick else Effort()
    effort = checked_effort(
        Effort(
            min_samples=usual.min_samples if options.samples is None else options.samples,
            max_seconds=usual.max_seconds if options.seconds is None else options.seconds,
            warm_up_seconds=usual.warm_up_seconds if options.warm_up is None else options.warm_up,
        )
    )
    access = _access(options)
    work = []
    for bundle in fleet_from_path(options.bundle, whole=False):
        engines = engines_for_bundle(options.engines, bundle, options.target)
        work.append((bundle, engines, _phases(bundle, engines, options)))
        check_server(bundle, options.server, access)
    powered = PowerOptions(
        options.power, options.meter, options.meter_source, options.power_mode, options.lock_clocks, options.quick
    )
    request = powered.request([engine for _, engines, _ in work for engine in engines.values()])
    if request is not None:
        say("energy: {} ({})".format(request.meter, request.why_chosen))
    here = environment(options.threads)
    measured: Dict[str, Dict[str, Any]] = {}
    entries: List[Dict[str, Any]] = []
    known: Set[Tuple[str, str]] = set()
    with power_mode(options.power_mode, options.lock_clocks) as mode:

        def profile(partial: bool) -> Dict[str, Any]:
            command = " ".join(["bottlekit-agent"] + sys.argv[1:])
            told = powered.told(request, mode)
            return profile_from_entries(entries, options.target, here, __version__, command, told, partial)

        def begins(bundle: Bundle, phase: str) -> None:
            # Who asked from afar has it, whatever becomes of the connection.
            for event in _measured_since(entries, known):
                tell("measured", event)
            say("measuring the {} of {}".format(phase, bundle.name))

        tell("begun", {"profile": profile(partial=True)})
        try:
            for bundle, engines, phases in work:
                bench_bundle(
                    bundle,
                    engines,
                    phases,
                    effort,
                    options.threads,
                    on_phase=functools.partial(begins, bundle),
                    measured_before=measured,
                    power=request,
                    on_entry=entries.append,
                    fused=options.fused,
                    server=options.server,
                    on_step=lambda step: say("energy: " + step),
                    access=access,
                )
        except (KeyboardInterrupt, SystemExit):
            if options.out is not None and any(entry["phases"] for entry in entries):
                write_json(options.out + ".partial", profile(partial=True))
                say("interrupted; what was measured is in {}.partial".format(options.out))
            raise
    if options.out is None:
        return profile(partial=False)
    write_json(options.out, profile(partial=False))
    return {"profile": options.out, "summaries": _summaries(entries)}


def _measured_since(entries: List[Dict[str, Any]], known: Set[Tuple[str, str]]) -> List[Dict[str, Any]]:
    """A phase each that was measured and is not `known`, to which it is added."""
    found = []
    for entry in entries:
        about = {name: value for name, value in entry.items() if name != "phases"}
        for phase, result in entry["phases"].items():
            if (entry["bundle"]["name"], phase) not in known:
                known.add((entry["bundle"]["name"], phase))
                found.append({"entry": about, "phase": phase, "result": result})
    return found


def _access(options: Any) -> LinkAccess:
    return LinkAccess(options.tls, options.server_name, options.token_file).checked(options.server)


def _phases(bundle: Bundle, engines: Dict[str, Engine], options: Any) -> List[str]:
    """What to measure: what was asked for, else the codec and every part that has an engine here."""
    here = [phase for phase in phases_of_bundle(bundle) if phase in engines or phase in ("encode", "decode")]
    here += link_phases(options.server)
    return checked_phases(bundle, engines, options.phase or here, options.target, options.server)


def _summaries(entries: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        entry["bundle"]["name"]: {name: phase["summary"] for name, phase in entry["phases"].items()}
        for entry in entries
    }


def infer(options: Any, tell: Callable[[Dict[str, Any]], None]) -> Dict[str, Any]:
    """Classify images: `tell` gets the result of each as it comes."""
    if options.top < 1:
        raise UsageError("--top must be at least 1, not {}".format(options.top))
    if not 0 < options.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds, not {:g}".format(options.timeout))
    if (options.engines is None) != (options.target is None):
        raise UsageError("--engines and --target belong together: the folder, and whose engine of it to run")
    address = address_from_text(options.server)
    bundles = fleet_from_path(options.bundle, whole=False)
    if len(bundles) != 1:
        raise BundleError(
            "{} holds the bundles {}; name the folder of one of them".format(
                options.bundle, ", ".join(bundle.name for bundle in bundles)
            )
        )
    bundle = bundles[0]
    how = dict(_access(options).options(), timeout_s=options.timeout)
    if options.engines is None:
        _classify(SplitClient(bundle, *address, **how), options, tell)
    else:
        engines = engines_for_bundle(options.engines, bundle, options.target)
        if "head" not in engines:
            raise EngineError("{} has no engine of the head of {}".format(options.engines, bundle.name))
        with runner_from_engine(engines["head"], codec=bundle.codec if options.fused else None) as head:
            _classify(SplitClient(bundle, *address, head_runner=head, **how), options, tell)
    return {"bundle": bundle.name, "server": options.server, "images": len(options.images)}


def _classify(client: SplitClient, options: Any, tell: Callable[[Dict[str, Any]], None]) -> None:
    with client:
        client.load_head()
        for path in options.images:
            answer = client.infer_image(image_from_file(path), options.top)
            tell(
                {
                    "image": path,
                    "class": answer.class_name,
                    "class_index": answer.class_index,
                    "top": [{"index": index, "logit": logit} for index, logit in answer.top(options.top)],
                    "times_ms": answer.times_ms,
                    "payload_bytes": answer.payload_bytes,
                    "framed_bytes": answer.framed_bytes,
                    "response_bytes": answer.response_bytes,
                }
            )


def _chosen(asked: Any, known: List[str], kind: str) -> List[str]:
    """Those asked for, all known without; UnknownNameError for one that is not there."""
    for name in asked or ():
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return list(asked or known)
