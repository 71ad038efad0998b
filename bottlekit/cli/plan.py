"""The verb `bottlekit plan`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, QuietOption, emit, say, set_quiet, stdout_console
from bottlekit.cli.plan_sweep import sweep_links
from bottlekit.cli.plan_switches import print_schedules, schedule_for_link
from bottlekit.errors import BundleError, ReportError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from bottlekit.specs import LinkSpec, Objective


def plan(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="What `bottlekit bench` wrote on the device.")],
    link: Annotated[
        list[str] | None,
        typer.Option(
            help="3g, 4g, wifi; with --uplink-mbps 5g-mmwave, 5g-low. May be given again. Default: first three.",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="latency or energy: what to have least of.")] = "latency",
    energy_weight: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Instead of an objective: energy counts this much, latency the rest, as multiples of the least.",
        ),
    ] = None,
    server_profile: Annotated[
        Path | None,
        typer.Option(help="What `bottlekit bench` wrote on the server; without it, the server is like the device."),
    ] = None,
    device_load: Annotated[
        float, typer.Option(metavar="FACTOR", help="The device takes this many times as long as in the profile.")
    ] = 1.0,
    server_load: Annotated[
        float, typer.Option(metavar="FACTOR", help="The server takes this many times as long as in the profile.")
    ] = 1.0,
    device_power_mw: Annotated[
        float | None,
        typer.Option(
            help="What the device draws while it computes. Without it, what a Jetson TX2 drew in the papers.",
            show_default="1306",
        ),
    ] = None,
    uplink_mbps: Annotated[float | None, typer.Option(help="Mbit/s up, instead of the link's.")] = None,
    downlink_mbps: Annotated[float | None, typer.Option(help="Mbit/s down, instead of the link's.")] = None,
    rtt_ms: Annotated[float | None, typer.Option(help="Round-trip time; the papers count none.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Radio power per rate while sending, mW per Mbit/s.")] = None,
    beta: Annotated[float | None, typer.Option(help="Radio power at any rate, mW.")] = None,
    no_beta: Annotated[
        bool, typer.Option("--no-beta", help="Leave beta out, as the Butterfly and JointDNN papers do.")
    ] = False,
    radio_tail: Annotated[
        bool, typer.Option("--radio-tail", help="Count what the radio spends after it sent, before it sleeps.")
    ] = False,
    downlink_bytes: Annotated[
        float, typer.Option(metavar="BYTES", help="Count the way back for an answer of this size.")
    ] = 0.0,
    accuracy_floor: Annotated[
        float | None, typer.Option(help="Only what is right at least this often, as a fraction 0..1.")
    ] = None,
    max_bytes: Annotated[float | None, typer.Option(help="Only what sends at most this much.")] = None,
    max_device_mib: Annotated[
        float | None, typer.Option(help="Only engines of at most this size on the device, MiB.")
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Only what nothing else beats in bytes, device MACs, accuracy, ms and mJ."),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH:COUNT", help="The best choice for so many uplinks, Mbit/s, and loads of the server."
        ),
    ] = None,
    sweep_load: Annotated[
        str, typer.Option(metavar="LOW:HIGH:COUNT", help="With --sweep: the loads of the server.")
    ] = "1:64:7",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="With --sweep: the picture to write.")
    ] = None,
    switches: Annotated[
        bool,
        typer.Option(
            "--switches", help="JointDNN's schedule of any number of switches; PROFILE is `profile-layers`'."
        ),
    ] = False,
    planner: Annotated[
        str,
        typer.Option(help="With --switches: jointdnn, single-cut, min-cut, exhaustive, mobile-only or cloud-only."),
    ] = "jointdnn",
    max_latency_ms: Annotated[float | None, typer.Option(help="With --switches: quality of service.")] = None,
    max_energy_mj: Annotated[float | None, typer.Option(help="With --switches: the device's battery.")] = None,
    max_cloud_ms: Annotated[float | None, typer.Option(help="With --switches: the load of the server.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The plan or sweep to write; replaced if it exists.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose where to cut: rank every split of a profile, mobile-only and cloud-only, for a network.

    Device and server times come from the profiles, times and energies of the radio from the papers' models
    (BottleNet and Butterfly, Algorithm 1). Every term is shown with its origin, best first.

        bottlekit plan profile.json --link 3g --objective energy

        bottlekit plan profile.json --uplink-mbps 40 --alpha 283 --beta 133

        bottlekit plan profile.json --link wifi --sweep 0.5:50:20 --picture best.svg

        bottlekit plan layers.json --switches --server-profile server.json --link 4g --max-cloud-ms 5 -o plan.json
    """
    from bottlekit.device.files import sha256_of_file
    from bottlekit.planning import OBJECTIVES, TX2_POWER_MW, plan_from_profile
    from bottlekit.planning.links import radio_tail_mj

    set_quiet(quiet)
    changes = {
        "uplink_mbps": uplink_mbps,
        "downlink_mbps": downlink_mbps,
        "alpha_up_mw_per_mbps": alpha,
        "beta_mw": beta,
        "rtt_ms": rtt_ms,
    }
    links = _links(link, {name: value for name, value in changes.items() if value is not None})
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    chosen: Objective = "energy" if objective == "energy" else "latency"
    on_device = _profile_from_file(profile)
    on_server = None if server_profile is None else _profile_from_file(server_profile)

    if switches:
        from bottlekit.planning.schedule import Bounds

        if sweep or picture or pareto or energy_weight is not None or accuracy_floor is not None or max_device_mib:
            raise UsageError("--switches plans layers: it has no --sweep, --pareto, --energy-weight or accuracies")
        bounds = Bounds(max_latency_ms, max_energy_mj, max_cloud_ms)
        assumed = {
            "device_load": device_load,
            "server_load": server_load,
            "device_power_mw": TX2_POWER_MW if device_power_mw is None else device_power_mw,
            "include_beta": not no_beta,
        }
        schedules = [
            schedule_for_link(
                on_device,
                on_server,
                one,
                chosen,
                bounds,
                planner,
                {**assumed, "radio_tail_mj": radio_tail_mj(one) if radio_tail else 0.0},
                str(profile),
                str(server_profile),
            )
            for one in links
        ]
        _finish(schedules, out, as_json, print_schedules)
        return
    if max_latency_ms is not None or max_energy_mj is not None or max_cloud_ms is not None:
        raise UsageError("--max-latency-ms, --max-energy-mj and --max-cloud-ms bound a schedule; add --switches")

    def planned(one: LinkSpec, load: float) -> dict[str, Any]:
        return plan_from_profile(
            on_device,
            one,
            chosen,
            profile_sha256=sha256_of_file(str(profile)),
            server_profile=on_server,
            server_profile_sha256=None if server_profile is None else sha256_of_file(str(server_profile)),
            where=str(profile),
            server_where=str(server_profile),
            device_load=device_load,
            server_load=load,
            device_power_mw=TX2_POWER_MW if device_power_mw is None else device_power_mw,
            include_beta=not no_beta,
            accuracy_floor=accuracy_floor,
            max_bytes=max_bytes,
            max_device_bytes=None if max_device_mib is None else max_device_mib * 2**20,
            downlink_bytes=downlink_bytes,
            energy_weight=energy_weight,
            radio_tail_mj=radio_tail_mj(one) if radio_tail else 0.0,
            only_pareto=pareto,
        )

    if sweep is not None:
        sweep_links(planned, links, sweep, sweep_load, picture, out, as_json)
        return
    if picture is not None:
        raise UsageError("--picture draws a sweep; give --sweep LOW:HIGH:COUNT with it")
    plans = [planned(one, server_load) for one in links]
    _finish(plans, out, as_json, _print)


def _finish(
    plans: list[dict[str, Any]], out: Path | None, as_json: bool, human: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Write and print. One link gives a plan; several give all of their plans, in the order asked for."""
    from bottlekit.device.files import write_json

    document = plans[0] if len(plans) == 1 else {"format": "bottlekit-plans", "version": 1, "plans": plans}
    if out is not None:
        write_json(str(out), document)
    emit(document, lambda: human(plans), as_json)
    if out is not None:
        say(f"wrote {out}")


def _links(names: list[str] | None, changes: dict[str, float]) -> list[LinkSpec]:
    """The links asked for by name, or the one that the numbers describe."""
    from bottlekit.planning.links import LINKS, link_from_name, link_from_numbers

    if names is None:
        return [link_from_numbers(changes)] if changes else list(LINKS.values())
    if changes and len(names) > 1:
        raise UsageError("rates, round trip and power describe one link; give --link once with them")
    return list(dict.fromkeys(link_from_name(name, changes) for name in names))


def _profile_from_file(path: Path) -> dict[str, Any]:
    from bottlekit.device.files import read_json

    try:
        return read_json(str(path), "profile")
    except BundleError as error:
        raise ReportError(str(error)) from error


def _print(plans: list[dict[str, Any]]) -> None:
    from bottlekit.report.render import rich_from_table
    from bottlekit.report.setups import chosen_sentence, link_title, plan_table

    console = stdout_console()
    for plan in plans:
        console.print(rich_from_table(plan_table(plan), console.width))
        console.print(f"[bold]{link_title(plan)}[/bold]: {chosen_sentence(plan)}\n", soft_wrap=True)
    _print_assumptions(plans[0]["assumptions"])


def _print_assumptions(assumptions: dict[str, Any]) -> None:
    """What the numbers rest on and cannot show."""
    beta = "with beta" if assumptions["include_beta"] else "without beta"
    words = [
        f"device power {assumptions['device_power_mw']:.0f} mW (modelled)",
        f"radio power {beta}",
        f"server times from {assumptions['server_times']}",
        f"framing {assumptions['framing']}",
    ]
    for name in ("device_load", "server_load"):
        if assumptions[name] != 1.0:
            words.append(f"{name.replace('_', ' ')} {assumptions[name]:g}")
    for side in ("device", "server"):
        if assumptions[f"{side}_emulation"] is not None:
            words.append(f"{side} times emulated")
    say(f"assumed: {', '.join(words)}")
