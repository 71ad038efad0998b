"""The verb `bottlekit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.bench_power import (
    ListMetersOption,
    LockClocksOption,
    MeterOption,
    MeterSourceOption,
    PowerModeOption,
    PowerOption,
    partial_path,
    say_meter,
    show_energies,
    show_meters,
)
from bottlekit.cli.bench_remote import measured_there
from bottlekit.cli.common import (
    JsonOption,
    QuietOption,
    command_line,
    emit,
    is_quiet,
    say,
    set_quiet,
    stderr_console,
    stdout_console,
)
from bottlekit.cli.host_options import DEFAULT_PYTHON, HostOption, HostPythonOption, machine_from_options
from bottlekit.cli.server_options import ServerNameOption, TlsOption, TokenFileOption
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.bench import Effort
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.energy_phase import PowerRequest
    from bottlekit.device.engine import Engine
    from bottlekit.device.link_phases import LinkAccess
    from bottlekit.device.power_options import PowerOptions

    Work = tuple[Bundle, dict[str, Engine], list[str]]


def bench(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="A bundle, or a fleet: a folder of bundles.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Whose engines to measure; they must run on this machine.")
    ] = "cpu",
    engines: Annotated[Path, typer.Option(help="The folder of engines that `bottlekit build` wrote.")] = Path(
        "engines"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="The profile to write; replaced if it exists.")] = Path(
        "profile.json"
    ),
    phase: Annotated[
        list[str] | None,
        typer.Option(
            help="head, encode, decode, tail, full or baseline; may be given again. Without it, all of them."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Measure the phases transmit and wait, too, with this server of the fleet."
        ),
    ] = None,
    tls: TlsOption = None,
    server_name: ServerNameOption = None,
    token_file: TokenFileOption = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Enough samples of a phase: p90 needs 64, p95 130, p99 662.", show_default="662"),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Enough time for a phase, if that comes first.", show_default="20")
    ] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(help="Seconds to warm up at most; less if times are stable.", show_default="2"),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A glance: 64 samples or 3 seconds a phase, so p90 at best; energy of 3 x 10 s, indicative.",
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads for one operator; all cores without it.")] = None,
    no_fused: Annotated[
        bool,
        typer.Option(
            "--no-fused", help="Quantise on the host, where a head on the GPU could do it in one kernel behind it."
        ),
    ] = False,
    power: PowerOption = False,
    meter: MeterOption = None,
    meter_source: MeterSourceOption = None,
    list_meters: ListMetersOption = False,
    power_mode: PowerModeOption = None,
    lock_clocks: LockClocksOption = False,
    emulate: Annotated[
        bool,
        typer.Option(
            "--emulate", help="Compute times for a target that is not here, from published ones. Runs nothing."
        ),
    ] = False,
    emulate_mode: Annotated[
        str | None,
        typer.Option(
            help="Its power mode or clock, as tx2's 0, 1, 2, 3 or maxn; without it, that of the published times."
        ),
    ] = None,
    emulate_precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32; without it, what the target is usually built for.")
    ] = None,
    host: HostOption = None,
    host_python: HostPythonOption = DEFAULT_PYTHON,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown, too.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how long each phase takes on this machine: head, encode, decode, tail, and the whole networks.

    Every phase runs alone, in a process of its own, on the bundle's golden inputs. It is timed only after its
    outputs were found equal to the golden ones. The profile keeps all samples; a percentile without enough of them
    is left out.

        bottlekit build fleet/ --target cpu

        bottlekit bench fleet/ --target cpu -o profile.json

    [bold]--power[/bold] measures what an inference costs in energy, too; on a machine without a sensor it says so.

    [bold]--server HOST:PORT[/bold] adds sending payloads to a server and waiting for it, each alone. With
    --host, the files of --tls and --token-file are on that machine.

    [bold]--host nvidia@tx2[/bold] sends engines that were built for that machine, and measures there: the codec,
    and those parts that have an engine here.
    """
    from bottlekit.device.bench import QUICK, Effort, checked_effort
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.files import write_json
    from bottlekit.device.link_phases import LinkAccess
    from bottlekit.device.power_options import PowerOptions
    from bottlekit.report.render import csv_from_table, markdown_from_table
    from bottlekit.report.setups import phases_table

    set_quiet(quiet)
    if list_meters:
        show_meters(meter_source or (), as_json)
        return
    if bundle is None:
        raise UsageError("bench needs a BUNDLE to measure; `bottlekit export` makes one")
    powered = PowerOptions(power, meter, meter_source or (), power_mode, lock_clocks, quick)
    if emulate or emulate_mode is not None or emulate_precision is not None:
        from bottlekit.cli.bench_emulate import bench_emulated

        measuring = {"--samples": samples, "--seconds": seconds, "--warm-up": warm_up, "--threads": threads}
        flags = {"--quick": quick or None, "--no-fused": no_fused or None, "--server": server}
        link = {"--tls": tls, "--server-name": server_name, "--token-file": token_file}
        given = [name for name, value in {**measuring, **flags, **link}.items() if value is not None]
        given += powered.given()
        bench_emulated(
            bundle, target, out, phase, emulate, emulate_mode, emulate_precision, given, csv, markdown, as_json
        )
        return
    usual = QUICK if quick else Effort()
    effort = checked_effort(
        Effort(
            min_samples=usual.min_samples if samples is None else samples,
            max_seconds=usual.max_seconds if seconds is None else seconds,
            warm_up_seconds=usual.warm_up_seconds if warm_up is None else warm_up,
        )
    )
    files = [None if path is None else str(path) for path in (tls, token_file)]
    access = LinkAccess(files[0], server_name, files[1]).checked(server)
    fleet, machine = fleet_from_path(str(bundle)), machine_from_options(host, host_python)
    if machine is not None:
        fused = not no_fused
        profile = measured_there(
            machine, fleet, engines, target, phase, effort, threads, powered, fused, server, access, out
        )
    else:
        work = _work(fleet, engines, target, phase, server, access)
        profile = _measured_here(work, target, effort, threads, powered, out, not no_fused, server, access)
    here = profile["environment"]
    table = phases_table(profile, f"Phases on {target}, {here['cpu'] or here['machine']}")
    write_json(str(out), profile)
    if csv is not None:
        _write(csv, csv_from_table(table))
    if markdown is not None:
        _write(markdown, markdown_from_table(table))

    def show() -> None:
        from bottlekit.report.render import rich_from_table

        console = stdout_console()
        console.print(rich_from_table(table, console.width))
        show_energies(profile)

    emit(profile, show, as_json)
    _remark(profile)
    say(f"wrote {out}; next: bottlekit plan {out} --link wifi")


def _work(
    fleet: list[Bundle],
    engines_dir: Path,
    target: str,
    asked: list[str] | None,
    server: str | None,
    access: LinkAccess,
) -> list[Work]:
    """What to measure of each bundle; engines and server are checked: nobody waits to learn that one is missing."""
    from bottlekit.device.bench import checked_phases
    from bottlekit.device.engine import engines_for_bundle
    from bottlekit.device.link_phases import check_server

    work = []
    for bundle in fleet:
        engines = engines_for_bundle(str(engines_dir), bundle, target)
        work.append((bundle, engines, checked_phases(bundle, engines, asked, target, server)))
    for bundle in fleet:
        check_server(bundle, server, access)
    return work


def _measured_here(
    work: list[Work],
    target: str,
    effort: Effort,
    threads: int | None,
    powered: PowerOptions,
    out: Path,
    fused: bool,
    server: str | None,
    access: LinkAccess,
) -> dict[str, Any]:
    """The profile of this machine. One that is interrupted is written beside `out`, marked `partial`."""
    from bottlekit import __version__
    from bottlekit.device.bench import profile_from_entries
    from bottlekit.device.environment import environment
    from bottlekit.device.files import write_json
    from bottlekit.device.power_mode import ending_on_signals, power_mode

    request = powered.request([engine for _, engines, _ in work for engine in engines.values()])
    say_meter(request)
    here = environment(threads)
    _warn_if_busy(here)
    entries: list[dict[str, Any]] = []
    with ending_on_signals(), power_mode(powered.power_mode, powered.lock_clocks) as mode:
        told = powered.told(request, mode)

        def profile(partial: bool) -> dict[str, Any]:
            return profile_from_entries(entries, target, here, __version__, command_line(), told, partial)

        try:
            _measure(work, effort, threads, request, entries, fused, server, access)
        except (KeyboardInterrupt, SystemExit):
            if any(entry["phases"] for entry in entries):
                write_json(str(partial_path(out)), profile(partial=True))
                say(f"interrupted; what was measured is in {partial_path(out)}")
            raise
    return profile(partial=False)


def _measure(
    work: list[Work],
    effort: Effort,
    threads: int | None,
    request: PowerRequest | None,
    entries: list[dict[str, Any]],
    fused: bool,
    server: str | None,
    access: LinkAccess,
) -> None:
    """Measure one phase after the other; `entries` holds what there is at any moment."""
    from rich.progress import Progress

    from bottlekit.device.bench import bench_bundle

    steps = [(bundle.name, phase) for bundle, _, phases in work for phase in phases]
    measured: dict[str, dict[str, Any]] = {}
    console = stderr_console()
    with Progress(console=console, transient=True, disable=is_quiet() or not console.is_terminal) as progress:
        task = progress.add_task("", total=len(steps))
        begun = iter(range(len(steps)))
        what = ""

        def show(_phase: str) -> None:
            nonlocal what
            step = next(begun)
            what = " ".join(steps[step])
            progress.update(task, description=what, completed=step)

        def show_step(step: str) -> None:
            progress.update(task, description=f"{what}: {step}")

        for bundle, engines, phases in work:
            bench_bundle(
                bundle,
                engines,
                phases,
                effort,
                threads,
                on_phase=show,
                measured_before=measured,
                power=request,
                on_entry=entries.append,
                fused=fused,
                server=server,
                on_step=show_step,
                access=access,
            )


def _warn_if_busy(here: dict[str, Any]) -> None:
    """Other processes on the same cores make every time longer."""
    load, cores = here["load_average"], here["usable_cores"]
    if load and cores and load[0] > 0.5 * cores:
        say(f"this machine is busy (load {load[0]:g} on {cores} cores): times will be longer than they should be")


def _remark(profile: dict[str, Any]) -> None:
    """What to know about the numbers."""
    unstable = [
        f"{entry['bundle']['name']} {name}"
        for entry in profile["bundles"]
        for name, phase in entry["phases"].items()
        if phase["summary"]["stable"] is False
    ]
    if unstable:
        say(f"not stable, the thirds of the run differ by more than a tenth: {', '.join(unstable)}")


def _write(path: Path, text: str) -> None:
    from bottlekit.device.files import whole_file

    with whole_file(str(path)) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
