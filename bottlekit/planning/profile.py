"""What the planner takes from a profile, checked value by value.

A profile may be hand-written, cut short or of another version; nothing of it is used before it was looked at.
Every complaint is one line: which file, which bundle, which value, what it should be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, cast

from bottlekit.errors import ReportError
from bottlekit.specs import Origin

PROFILE_FORMAT = "bottlekit-profile"
PROFILE_VERSION = 1
ORIGINS = ("measured", "modelled", "emulated")
COLLABORATIVE_PHASES = ("head", "encode", "decode", "tail")
WHOLE_PHASES = ("baseline", "full")
MACS_OF = ("head", "tail", "baseline")


@dataclasses.dataclass(frozen=True)
class Timed:
    """A time of one phase: the median of its samples in ms, and where the samples come from.

    `engine_bytes`: the size of the engine that ran; None for the codec's phases, or if the profile does not say.
    """

    ms: float
    origin: Origin
    engine_bytes: float | None = None


@dataclasses.dataclass(frozen=True)
class ProfiledBundle:
    """One bundle of a profile. Accuracies are fractions 0..1, bytes are means over held-out images.

    `phases` has head, encode, decode and tail; full and baseline where they were measured. `framing_bytes` is what
    the wire adds to a payload, `macs` the multiply-accumulates of head, tail and baseline; None if the profile does
    not say.
    """

    name: str
    sha256: str
    split: str
    split_index: int
    accuracy: float | None
    baseline_accuracy: float | None
    payload_bytes: float
    framing_bytes: float | None
    input_jpeg_bytes: float | None
    input_jpeg_accuracy: float | None
    phases: Mapping[str, Timed]
    macs: Mapping[str, float] | None = None


def bundles_from_profile(profile: Mapping[str, Any], where: str = "the profile") -> tuple[ProfiledBundle, ...]:
    """The bundles of a profile in the order of their split points; `where` names the file in a ReportError."""
    bundles = [
        _bundle_from_entry(_Reader(entry, f"{where}, bundle {number}"))
        for number, entry in enumerate(entries_of_profile(profile, where), 1)
    ]
    check_names([bundle.name for bundle in bundles], where)
    return tuple(sorted(bundles, key=lambda bundle: (bundle.split_index, bundle.name)))


def entries_of_profile(profile: Mapping[str, Any], where: str) -> list[Any]:
    """The entries of a profile's bundles, not looked at yet; ReportError for another document, or one without."""
    if profile.get("format") != PROFILE_FORMAT:
        raise ReportError(
            f"{where} is no profile: its format is {profile.get('format')!r}, not {PROFILE_FORMAT!r}; "
            "`bottlekit bench` writes one"
        )
    if profile.get("version") != PROFILE_VERSION:
        raise ReportError(
            f"{where} is a profile of version {profile.get('version')!r}; this bottlekit reads version "
            f"{PROFILE_VERSION}: run `bottlekit bench` again"
        )
    entries = profile.get("bundles")
    if not isinstance(entries, list) or not entries:
        raise ReportError(f"{where} is a profile without bundles; run `bottlekit bench` again")
    return entries


def check_names(names: Sequence[str], where: str) -> None:
    """ReportError where two bundles of a profile have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReportError(
            f"{where} has more than one bundle called {', '.join(twice)}; run `bottlekit bench` again"
        )


class _Reader:
    """A JSON object and the words that lead to it, for the errors."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ReportError(f"{where} is {_shown(value)}, not an object; run `bottlekit bench` again")
        self.value: dict[str, Any] = value
        self.where = where

    def object(self, name: str) -> _Reader:
        return _Reader(self.value.get(name), f"{self.where}: {name}")

    def object_or_none(self, name: str) -> _Reader | None:
        return None if self.value.get(name) is None else self.object(name)

    def text(self, name: str) -> str:
        value = self.value.get(name)
        if not isinstance(value, str) or not value:
            raise self._wrong(name, value, "a name")
        return value

    def number(self, name: str, least: float, most: float | None = None) -> float:
        value = self.value.get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not isfinite(value)
            or value < least
            or (most is not None and value > most)
        ):
            raise self._wrong(name, value, f"at least {least:g}" if most is None else f"{least:g}..{most:g}")
        return float(value)

    def fraction_or_none(self, name: str) -> float | None:
        return None if self.value.get(name) is None else self.number(name, 0.0, 1.0)

    def _wrong(self, name: str, value: Any, wanted: str) -> ReportError:
        return ReportError(
            f"{self.where}: {name} is {_shown(value)}, it must be {wanted}; run `bottlekit bench` again"
        )


def _bundle_from_entry(entry: _Reader) -> ProfiledBundle:
    identity = entry.object("bundle")
    name = identity.text("name")
    entry.where = f"{entry.where} ({name})"
    accuracy = entry.object_or_none("accuracy")
    jpeg = entry.object_or_none("input_jpeg_bytes")
    framed = entry.object_or_none("framed_bytes")
    macs = entry.object_or_none("macs")
    phases = entry.object("phases")
    timed = {phase: _timed(phases.object(phase)) for phase in COLLABORATIVE_PHASES}
    timed.update(
        {phase: _timed(phases.object(phase)) for phase in WHOLE_PHASES if phases.value.get(phase) is not None}
    )
    return ProfiledBundle(
        name=name,
        sha256=identity.text("sha256"),
        split=identity.text("split"),
        split_index=int(identity.number("split_index", 0)),
        accuracy=None if accuracy is None else accuracy.fraction_or_none("split"),
        baseline_accuracy=None if accuracy is None else accuracy.fraction_or_none("baseline"),
        payload_bytes=entry.object("payload_bytes").number("mean", 1.0),
        framing_bytes=None if framed is None else framed.number("overhead", 0.0),
        input_jpeg_bytes=None if jpeg is None else jpeg.number("mean", 1.0),
        input_jpeg_accuracy=None if jpeg is None else jpeg.fraction_or_none("accuracy"),
        phases=timed,
        macs=None if macs is None else {part: macs.number(part, 0.0) for part in MACS_OF if part in macs.value},
    )


def _timed(phase: _Reader) -> Timed:
    origin = phase.text("origin")
    if origin not in ORIGINS:
        raise ReportError(f"{phase.where}: origin is {origin!r}, it must be one of {', '.join(ORIGINS)}")
    # A nanosecond: nothing that was measured takes no time.
    return Timed(
        ms=phase.object("summary").number("p50_ms", 1e-6),
        origin=cast(Origin, origin),
        engine_bytes=None if phase.value.get("engine_bytes") is None else phase.number("engine_bytes", 0.0),
    )


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
