"""`bottlekit bench --host`: the phases measured on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.cli.bench_power import partial_path
from bottlekit.cli.common import command_line, say

if TYPE_CHECKING:
    from bottlekit.build.remote import RemoteMachine
    from bottlekit.device.bench import Effort
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.link_phases import LinkAccess
    from bottlekit.device.power_options import PowerOptions


def measured_there(
    machine: RemoteMachine,
    fleet: list[Bundle],
    engines_dir: Path,
    target: str,
    phases: list[str] | None,
    effort: Effort,
    threads: int | None,
    power: PowerOptions,
    fused: bool,
    server: str | None,
    access: LinkAccess,
    out: Path,
) -> dict[str, Any]:
    """The profile of a fleet's engines on that machine. What lacks an engine is found before anything is sent.

    One that is interrupted, or whose connection drops, is written beside `out`, marked `partial`.

    Raises as `checked_phases` and `RemoteMachine.bench` do.
    """
    from bottlekit.device.bench import checked_phases
    from bottlekit.device.bundle import PARTS
    from bottlekit.device.engine import engines_for_bundle
    from bottlekit.device.files import write_json
    from bottlekit.device.link_phases import link_phases
    from bottlekit.device.power_mode import ending_on_signals

    work = []
    for bundle in fleet:
        engines = engines_for_bundle(str(engines_dir), bundle, target)
        # Without --phase: the codec, and what has an engine.
        linked = link_phases(server, phases)
        wanted = phases if phases is not None else [part for part in PARTS if part in engines] + linked
        chosen = checked_phases(bundle, engines, wanted, target, server)
        work.append((bundle, {part: engine for part, engine in engines.items() if part in chosen}))
    options = ["--samples", str(effort.min_samples), "--seconds", f"{effort.max_seconds:g}"]
    options += ["--warm-up", f"{effort.warm_up_seconds:g}"]
    options += [] if threads is None else ["--threads", str(threads)]
    options += power.words()
    options += [] if fused else ["--no-fused"]
    options += [] if server is None else ["--server", server, *access.words()]
    for phase in phases or ():
        options += ["--phase", phase]

    def keep(profile: dict[str, Any]) -> None:
        write_json(str(partial_path(out)), {**profile, "command": command_line()})
        say(f"interrupted; what was measured is in {partial_path(out)}")

    with ending_on_signals():
        profile: dict[str, Any] = machine.bench(work, target, options, keep)
    return {**profile, "command": command_line()}
