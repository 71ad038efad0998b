"""What `bottlekit infer` shows of an image."""

from __future__ import annotations

from typing import Any


def show(result: dict[str, Any]) -> None:
    """Two lines on stdout: what it is, and what that took."""
    print(f"{result['image']}: {result['class']}")
    print("  classes  " + ", ".join(f"{item['class']} {item['logit']:.2f}" for item in result["top"]))
    print("  time     " + _time_line(result["times_ms"]))
    if "early" in result:
        print("  exit     " + (f"answered at {result['exit']}" if result["early"] else "unsure, so it was sent"))
    if "framed_bytes" in result:
        print(
            f"  bytes    {result['payload_bytes']} payload, {result['framed_bytes']} sent with framing, "
            f"{result['response_bytes']} received"
        )
    elif "payload_bytes" in result:
        print(f"  bytes    {result['payload_bytes']} payload (not sent)")


def _time_line(times_ms: dict[str, float]) -> str:
    """The total on this machine's clock and its parts; the server's own times in brackets."""
    here = {name: value for name, value in times_ms.items() if name in ("head", "decide", "encode", "round_trip")}
    if "round_trip" not in here:
        here = times_ms
    there = {name: value for name, value in times_ms.items() if name not in here}
    line = f"{sum(here.values()):.2f} ms = " + " + ".join(
        f"{name.replace('_', ' ')} {value:.2f}" for name, value in here.items()
    )
    if there:
        line += " (server: " + ", ".join(f"{name} {value:.2f}" for name, value in there.items()) + ")"
    return line
