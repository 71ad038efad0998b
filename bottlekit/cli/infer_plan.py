"""`bottlekit infer --plan`: a schedule's segments here and on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import emit, say
from bottlekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    from bottlekit.build.onnx_segments import OnnxSegments
    from bottlekit.device.segments.traveller import Journey


def infer_with_plan(
    classifier: Path,
    images: list[Path],
    plan: Path,
    server: str | None,
    top: int,
    timeout_s: float,
    exact: bool,
    never_alone: bool,
    tls: Path | None,
    server_name: str | None,
    as_json: bool,
) -> None:
    """Classify images with the layers where the schedule says; see `infer`."""
    import dataclasses

    from bottlekit.build.onnx_segments import OnnxSegments, classifier_file
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.images import image_from_file, input_from_image
    from bottlekit.device.segments.route import check_route, route_from_file
    from bottlekit.device.segments.traveller import Traveller
    from bottlekit.device.wire.addresses import address_from_text

    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}")
    if not 0 < timeout_s < float("inf"):
        raise UsageError(f"--timeout must be more than 0 seconds, not {timeout_s:g}")
    if server_name is not None and tls is None:
        raise UsageError("--server-name is the name in a certificate: give --tls FOLDER as well")
    address = None if server is None else address_from_text(server)
    route = route_from_file(str(plan))
    results = []
    bundle = Bundle.load(str(classifier)) if classifier.is_dir() else None
    classes = bundle.classes if bundle is not None else None
    with OnnxSegments(classifier_file(classifier)) as segments:
        check_route(route, segments, str(plan))
        preprocessing = (
            dataclasses.asdict(_preprocessing(segments, classifier)) if bundle is None else bundle.preprocessing
        )
        traveller = Traveller(
            route,
            segments,
            address,
            timeout_s,
            exact,
            may_finish=not never_alone,
            tls_folder=str(tls) if tls else None,
            server_name=server_name,
        )
        with traveller:
            for path in images:
                image = input_from_image(image_from_file(str(path)), preprocessing)
                journey = traveller.run(image[None])
                if journey.lost is not None:
                    say(f"finished here: {journey.lost}")
                result = {"image": str(path), **_result(journey, segments, top, classes)}
                results.append(result)
                if not as_json:
                    _show(result)
    report = {
        "setup": "schedule",
        "server": server,
        "model": {"name": classifier.stem, "sha256": route.sha256},
        "codec": route.codec or "none",
        "planned_ms": route.latency_ms,
        "images": results,
    }
    emit(report, lambda: None, as_json)


def _preprocessing(segments: OnnxSegments, classifier: Path) -> Any:
    from bottlekit.specs import Preprocessing

    shape = segments.input_shape
    height, width = shape[2:4] if len(shape) == 4 else (None, None)
    if len(shape) != 4 or shape[1] != 3 or height is None or height != width:
        raise BundleError(
            f"{classifier} takes {shape}; images are classified by (n, 3, size, size) of a fixed size"
        )
    return Preprocessing(resize=height, crop=height)


def _result(journey: Journey, segments: OnnxSegments, top: int, classes: list[str] | None) -> dict[str, Any]:
    logits = journey.results[segments.result_names[0]].reshape(-1)
    best: list[dict[str, Any]] = [
        {"index": int(index), "logit": float(logits[index])} for index in (-logits).argsort(kind="stable")[:top]
    ]
    if classes is not None:
        best = [{"class": classes[one["index"]], **one} for one in best]
    return {
        "class_index": best[0]["index"],
        "top": best,
        "steps": [{**step._asdict(), "ms": round(step.ms, 4)} for step in journey.steps],
        "latency_ms": round(journey.latency_ms, 4),
        "sent_bytes": journey.sent_bytes,
        "received_bytes": journey.received_bytes,
        "lost": journey.lost,
    }


def _show(result: dict[str, Any]) -> None:
    """What it is, what that took, and what crossed."""
    print(f"{result['image']}: {_name(result['top'][0])}")
    print("  classes  " + ", ".join(f"{_name(item)} {item['logit']:.2f}" for item in result["top"]))
    steps = [f"{step['machine']} {step['first']}..{step['last']} {step['ms']:.2f}" for step in result["steps"]]
    print(f"  time     {result['latency_ms']:.2f} ms: " + ", ".join(steps))
    print(f"  bytes    {result['sent_bytes']} sent, {result['received_bytes']} received")


def _name(item: dict[str, Any]) -> str:
    """A class by its name, if a bundle gave it one."""
    return str(item.get("class", f"class {item['index']}"))
