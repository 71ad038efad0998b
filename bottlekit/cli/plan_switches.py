"""`bottlekit plan --switches`: JointDNN's schedule from the layer profiles of a device and a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import say, stdout_console
from bottlekit.errors import UnknownNameError

if TYPE_CHECKING:
    from bottlekit.planning.schedule import Bounds
    from bottlekit.specs import LinkSpec, Objective


def schedule_for_link(
    device: dict[str, Any],
    server: dict[str, Any] | None,
    link: LinkSpec,
    objective: Objective,
    bounds: Bounds,
    planner: str,
    assumptions: dict[str, Any],
    where: str,
    server_where: str,
) -> dict[str, Any]:
    """One schedule. `assumptions` has the loads, the device's power, `include_beta` and `radio_tail_mj`."""
    from bottlekit.planning.layers import problem_from_layers, schedule_document
    from bottlekit.planning.planners import PLANNERS

    if planner not in PLANNERS:
        raise UnknownNameError("planner", planner, PLANNERS)
    problem, guessed = problem_from_layers(
        device,
        device if server is None else server,
        link,
        objective,
        bounds,
        device_power_mw=assumptions["device_power_mw"],
        include_beta=assumptions["include_beta"],
        radio_tail_mj=assumptions["radio_tail_mj"],
        where=where,
        server_where=where if server is None else server_where,
    )
    problem = problem.with_loads(assumptions["device_load"], assumptions["server_load"])
    more = {
        "time_statistic": "p50_ms",
        "server_times": "the device's profile" if server is None else "the server's profile",
        "device_power_origin": "modelled",
        "interpolated_groups": guessed,
    }
    return schedule_document(problem, planner, device, {**assumptions, **more})


def print_schedules(documents: list[dict[str, Any]]) -> None:
    """What runs where, what is sent, and what the other planners would give."""
    console = stdout_console()
    for document in documents:
        schedule = document["schedule"]
        console.print(
            f"[bold]{document['link']['name']}[/bold]: {schedule['latency_ms']:.3g} ms (measured and modelled), "
            f"{schedule['energy_mj']:.3g} mJ (modelled), {schedule['switches']} switches",
            soft_wrap=True,
        )
        sent = {transfer["boundary"]: transfer for transfer in schedule["transfers"]}
        for segment in schedule["segments"]:
            _print_transfer(sent.get(segment["first"]))
            first, last = segment["first"], segment["last"]
            names = f"{document['layers'][first]} to {document['layers'][last]}"
            console.print(
                f"  {segment['machine']:6} layers {first}..{last}, {names}: {segment['ms']:.3g} ms", soft_wrap=True
            )
        _print_transfer(sent.get(len(document["layers"])))
        for name, other in document["planners"].items():
            words = "no schedule" if other is None else f"{other['latency_ms']:.3g} ms, {other['energy_mj']:.3g} mJ"
            console.print(f"  planner {name}: {words}", soft_wrap=True)
    guessed = documents[0]["assumptions"]["interpolated_groups"]
    say(f"assumed: groups interpolated: {guessed['device']} of the device, {guessed['server']} of the server")


def _print_transfer(transfer: dict[str, Any] | None) -> None:
    if transfer is not None:
        stdout_console().print(
            f"  to {transfer['to']}: {', '.join(transfer['tensors']) or 'nothing'}, {transfer['bytes']:.0f} bytes, "
            f"{transfer['ms']:.3g} ms",
            soft_wrap=True,
        )
