"""Whether two profiles were taken alike: a change says something only if nothing else has changed.

Each difference has a field's name, by which a user can wave it through: an upgrade of ONNX Runtime is compared with
`--despite onnxruntime`, and everything else must still be the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.report.setups import Values

ALL = "all"

# The reference of profiles says what they mean. Left out is what changes on one machine from hour to hour (load,
# present frequency) and what hardly moves a time (the size of the memory, the kernel's patch level).
ENVIRONMENT_FIELDS = (
    "machine", "system", "board", "l4t", "cpu", "gpus", "cores", "usable_cores", "virtual", "governors",
    "power_mode", "threads", "omp_num_threads", "python", "numpy", "onnxruntime", "pillow", "simplejpeg",
    "nvidia_driver", "tensorrt", "tensorrt_rtx",
)  # fmt: skip
PHASE_FIELDS = ("origin", "kind", "precision")
ENERGY_FIELDS = ("meter", "boundary")
FIELDS = ("target", *ENVIRONMENT_FIELDS, *PHASE_FIELDS, *ENERGY_FIELDS, "clocks", "data")
"""Every field that must agree: the profile's, its phases', their energies', and what accuracy was counted on."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field that differs, its two values, and where: "" for the whole profile, else 'head of net-rb1'."""

    field: str
    before: Any
    after: Any
    where: str = ""


def differences(before: Values, after: Values, pairs: Sequence[tuple[str, Values, Values]]) -> list[Difference]:
    """Every field in which two profiles were not taken alike.

    `pairs` are the phases that both have: (where, timed before, timed after). A field that only one profile tells
    differs; one that neither tells does not.
    """
    found = [Difference("target", before["target"], after["target"])]
    here, there = before["environment"], after["environment"]
    found += [Difference(name, here.get(name), there.get(name)) for name in ENVIRONMENT_FIELDS]
    for where, first, second in pairs:
        found += [Difference(name, first.get(name), second.get(name), where) for name in PHASE_FIELDS]
        found += _energy_differences(where, first.get("energy"), second.get("energy"))
    found += _data_differences(before, after)
    return [one for one in found if one.before != one.after]


def _energy_differences(where: str, first: Any, second: Any) -> Iterator[Difference]:
    """Where only one side has an energy there is nothing to compare, and nothing to refuse."""
    if isinstance(first, dict) and isinstance(second, dict):
        for name in ENERGY_FIELDS:
            yield Difference(name, first.get(name), second.get(name), f"energy of the {where}")
        modes = zip(("power_mode", "clocks"), _mode_and_clocks(first), _mode_and_clocks(second), strict=True)
        for name, before, after in modes:
            yield Difference(name, before, after, f"energy of the {where}")


def _mode_and_clocks(energy: Values) -> tuple[Any, Any]:
    """A Jetson's power mode, and the bounds of the processor's clocks in kHz, when the energy was measured."""
    before = (energy.get("conditions") or {}).get("before") or {}
    khz = before.get("cpu_khz") or {}
    return before.get("power_mode"), {bound: khz[bound] for bound in ("min", "max") if khz.get(bound)} or None


def _data_differences(before: Values, after: Values) -> Iterator[Difference]:
    others = {entry["bundle"]["name"]: entry["accuracy"] for entry in after["bundles"]}
    for entry in before["bundles"]:
        name = entry["bundle"]["name"]
        if entry["accuracy"] and others.get(name):
            yield Difference("data", entry["accuracy"]["data"], others[name]["data"], f"accuracy of {name}")


def check_alike(found: Sequence[Difference], despite: Iterable[str], before: str, after: str) -> None:
    """Raise UsageError naming every difference that no field of `despite` waves through.

    `despite` holds names of `FIELDS`, or "all". Raises UnknownNameError for any other name. `before` and `after`
    name the two files.
    """
    waved = set(despite)
    for name in sorted(waved):
        if name not in (*FIELDS, ALL):
            raise UnknownNameError("field", name, (ALL, *FIELDS))
    left = [one for one in found if one.field not in waved and ALL not in waved]
    if left:
        options = " ".join(f"--despite {name}" for name in dict.fromkeys(one.field for one in left))
        raise UsageError(
            f"{before} and {after} were not taken alike: {difference_words(left)}. Take one of them again, or "
            f"compare all the same with {options}"
        )


def difference_words(found: Sequence[Difference]) -> str:
    """All differences in one line; what differs alike in several places is told once, with the first of them."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        places.setdefault((one.field, _shown(one.before), _shown(one.after)), []).append(one.where)
    return "; ".join(
        f"{field}{_where_words(wheres)} {first} against {second}"
        for (field, first, second), wheres in places.items()
    )


def _where_words(wheres: Sequence[str]) -> str:
    if wheres == [""]:
        return ""
    more = f" and {len(wheres) - 1} more" if len(wheres) > 1 else ""
    return f" ({wheres[0]}{more})"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
