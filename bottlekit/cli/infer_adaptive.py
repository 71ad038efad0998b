"""`bottlekit infer --adaptive`: for every image the split that is quickest now, or the whole network here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import emit, say
from bottlekit.cli.infer_exits import decision_of, show_policy
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bottlekit.device.adaptive.client import AdaptiveAnswer
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.exit_policy import Bounds
    from bottlekit.device.service import RunnerFor


def infer_adaptively(
    fleet: Path,
    images: list[Path],
    server: str | None,
    profile: Path | None,
    server_profile: Path | None,
    pin: str | None,
    memory_mb: float | None,
    top: int,
    engines: tuple[Path | None, str | None],
    client: dict[str, Any],
    runner_for: RunnerFor | None,
    exits: tuple[list[float] | float | None, Bounds | None],
    result_of: Callable[[Bundle, list[tuple[int, float]], dict[str, float]], dict[str, Any]],
    as_json: bool,
) -> None:
    """Classify images where it is quickest; see `infer`. `engines` is a folder and a target, `exits` what
    `exit_options` says."""
    from bottlekit.device.adaptive.client import AdaptiveClient
    from bottlekit.device.adaptive.heads import engine_bytes, graph_bytes
    from bottlekit.device.adaptive.options import options_from_profile
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.exit_policy import reached
    from bottlekit.device.files import read_json
    from bottlekit.device.images import image_from_file
    from bottlekit.device.wire.addresses import address_from_text

    if server is None or profile is None:
        raise UsageError("--adaptive needs --server HOST:PORT, and --profile FILE that `bottlekit bench` wrote")
    if memory_mb is not None and not 0 < memory_mb < float("inf"):
        raise UsageError(f"--memory-mb must be more than 0, not {memory_mb:g}")
    address = address_from_text(server)
    bundles = fleet_from_path(str(fleet))
    there = None if server_profile is None else read_json(str(server_profile), "profile")
    options = options_from_profile(
        read_json(str(profile), "profile"), bundles, there, str(profile), str(server_profile)
    )
    folder, target = engines
    results: list[dict[str, Any]] = []
    answers = []
    began_s = time.monotonic()
    with AdaptiveClient(
        bundles,
        options,
        *address,
        runner_for=runner_for,
        size_of=graph_bytes if folder is None or target is None else engine_bytes(str(folder), target),
        memory_bytes=None if memory_mb is None else max(1, int(memory_mb * 1e6)),
        pin=pin,
        exit_threshold=exits[0],
        exit_bounds=exits[1],
        **client,
    ) as adaptive:
        if adaptive.left_out:
            say(f"left out, as they do not fit into {memory_mb:g} MB: {', '.join(adaptive.left_out)}")
        for path in images:
            answer = adaptive.infer_image(image_from_file(str(path)))
            answers.append(answer)
            ranked = [
                (int(index), float(answer.logits[index])) for index in (-answer.logits).argsort(kind="stable")
            ]
            found = result_of(bundles[0], ranked[:top], answer.times_ms)
            result = {"image": str(path), **found, **decision_of(answer), **_why(answer)}
            results.append(result)
            if not as_json:
                _show(result)
        report: dict[str, Any] = {
            "setup": "adaptive",
            "server": server,
            "pin": pin,
            "left_out": adaptive.left_out,
            "link": {"rtt_ms": adaptive.policy.link.rtt_ms, "uplink_mbps": adaptive.policy.link.uplink_mbps},
            "switches": adaptive.policy.switches,
            "images": results,
        }
        if exits[1] is not None:
            report["policy"] = reached(exits[1], answers, time.monotonic() - began_s)
    emit(report, lambda: show_policy(report["policy"]) if "policy" in report else None, as_json)


def _why(answer: AdaptiveAnswer) -> dict[str, Any]:
    return {
        "split": answer.split,
        "reason": answer.reason,
        "predicted_ms": _rounded(answer.predicted_ms),
        "considered_ms": _rounded(answer.considered_ms),
        "payload_bytes": answer.payload_bytes,
        "framed_bytes": answer.framed_bytes,
        "response_bytes": answer.response_bytes,
        "lost": answer.lost,
    }


def _rounded(times_ms: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in times_ms.items()}


def _show(result: dict[str, Any]) -> None:
    """What it is, where that was found out and why, what it took and what had been predicted."""
    print(f"{result['image']}: {result['class']}")
    print("  classes   " + ", ".join(f"{item['class']} {item['logit']:.2f}" for item in result["top"]))
    print(f"  where     {result['split']}: {result['reason']}")
    if result["early"]:
        print(f"  exit      answered at {result['exit']}")
    print("  time      " + _line(result["times_ms"]))
    print(f"  predicted {sum(result['predicted_ms'].values()):.2f} ms: " + _line(result["predicted_ms"]))
    if result["framed_bytes"]:
        print(f"  bytes     {result['payload_bytes']} payload, {result['framed_bytes']} sent with framing")


def _line(times_ms: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in times_ms.items())
