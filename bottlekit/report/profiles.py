"""A profile as the reports take it: read from its file, and looked at before anything of it is shown.

A profile may have been cut short, written by hand, or made by another version. Whatever is wrong with it is said in
one line; what is merely absent (energies, samples of a phase that was emulated) is absent in the report, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottlekit.device.fields import Fields
from bottlekit.device.files import read_json
from bottlekit.errors import BundleError, ReportError
from bottlekit.planning.profile import check_names, entries_of_profile
from bottlekit.report.setups import Values
from bottlekit.report.table import ORIGINS

MOST_MS = 1e9
"""A sample of more than eleven days is none."""


def profile_from_file(path: Path) -> dict[str, Any]:
    """The profile in a file. Raises ReportError, naming file and value, when it is none or is damaged."""
    try:
        profile = read_json(str(path), "profile")
        _check(profile, str(path))
    except BundleError as error:
        raise ReportError(str(error)) from error
    return profile


def phases_of_profile(profile: Values) -> Iterator[tuple[str, str, Values]]:
    """(bundle's name, phase's name, what was found) of every phase, in the order of the profile."""
    for entry in profile["bundles"]:
        for name, timed in entry["phases"].items():
            yield str(entry["bundle"]["name"]), str(name), timed


def samples_of_phase(timed: Values) -> Sequence[float]:
    """The samples in ms in the order they were taken; none where the phase was never run, only emulated."""
    samples: Sequence[float] = timed.get("samples_ms") or ()
    return samples


def emulated_words(profile: Values) -> str:
    """What titles begin with where phases were emulated: 'Emulated: ', 'Partly emulated: ', else nothing."""
    origins = {timed["origin"] for _, _, timed in phases_of_profile(profile)}
    if "emulated" not in origins:
        return ""
    return "Emulated: " if origins == {"emulated"} else "Partly emulated: "


def _check(profile: dict[str, Any], where: str) -> None:
    entries = entries_of_profile(profile, where)
    fields = Fields(profile, where)
    for name in ("target", "command", "bottlekit"):
        fields.text(name)
    fields.object("environment")
    names = [_checked_entry(Fields(entry, where, f"bundles[{i}]")) for i, entry in enumerate(entries)]
    check_names(names, where)


def _checked_entry(entry: Fields) -> str:
    """The name of a bundle whose entry has what every report needs."""
    bundle = entry.object("bundle")
    name = bundle.text("name")
    bundle.text("split")
    bundle.integer("split_index", 0, 100_000)
    if entry.any("accuracy") is not None:
        accuracy = entry.object("accuracy")
        accuracy.text("data")
        accuracy.number("split", 0.0, 1.0)
        accuracy.integer("images", 0, 10**9)
    entry.object("payload_bytes").number("mean", 0.0, 1e12)
    phases = entry.object("phases")
    for phase in phases.values:
        _check_phase(phases.object(phase))
    return name


def _check_phase(timed: Fields) -> None:
    if timed.text("origin") not in ORIGINS:
        raise timed.error("origin", f"one of {', '.join(ORIGINS)}")
    timed.object("summary").number("mean_ms", 0.0, MOST_MS)
    samples = timed.values.get("samples_ms")
    if samples is None and timed.values["origin"] != "measured":
        return
    timed.numbers("samples_ms", len(samples) if isinstance(samples, list) else 0, 0.0, MOST_MS)
    if not samples and timed.values["origin"] == "measured":
        raise timed.error("samples_ms", "the samples that were measured")
