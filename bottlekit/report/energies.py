"""The energy of a phase as a profile tells it, with whatever makes it doubtful.

    timed phase of a profile.json -> energy_of_phase -> Energy -> energy_table, pictures, comparison

A profile without a meter has no energy: then the reason is what is shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bottlekit.device.confidence import t_quantile
from bottlekit.report.intervals import Estimate
from bottlekit.report.profiles import phases_of_profile
from bottlekit.report.setups import Values
from bottlekit.report.table import Cell, Column, Table

NOT_METERED = "not metered: bench ran without --power"


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy of one inference in mJ, `gross` and `net` of idle, each with its interval at `confidence`.

    `missing` says why there is none; a run that was found invalid has none either, and says so there. `indicative`
    marks a short run. `repeats` is how many runs the means are of.
    """

    gross_mj: float | None = None
    net_mj: float | None = None
    gross_interval_mj: tuple[float, float] | None = None
    net_interval_mj: tuple[float, float] | None = None
    confidence: float | None = None
    repeats: int = 0
    meter: str = "none"
    boundary: str = ""
    indicative: bool = False
    missing: str = ""

    def estimate(self, net: bool) -> Estimate | None:
        """The mean with its error, net of idle or gross; None where too few repeats tell none.

        The error is that of the interval, which knows that all repeats share one idle power.
        """
        mean, interval = (self.net_mj, self.net_interval_mj) if net else (self.gross_mj, self.gross_interval_mj)
        if mean is None or interval is None or self.confidence is None or self.repeats < 2:
            return None
        half_width = 0.5 * (interval[1] - interval[0])
        return Estimate(mean, half_width / t_quantile(self.confidence, self.repeats - 1), self.repeats - 1)


def energy_of_phase(timed: Values) -> Energy:
    """The energy in a timed phase of a profile."""
    told = timed.get("energy")
    if not isinstance(told, Mapping):
        return Energy(missing=NOT_METERED)
    meter, boundary = str(told.get("meter") or "none"), str(told.get("boundary") or "")
    if told.get("energy_mj") is None:
        reasons = "; ".join(str(reason) for reason in told.get("reasons") or ())
        return Energy(meter=meter, boundary=boundary, missing=reasons or "the profile does not say why")
    return Energy(
        gross_mj=told["energy_mj"],
        net_mj=told.get("net_energy_mj"),
        gross_interval_mj=_pair(told.get("energy_ci_mj")),
        net_interval_mj=_pair(told.get("net_energy_ci_mj")),
        confidence=told.get("confidence"),
        repeats=len(told.get("repeats") or ()),
        meter=meter,
        boundary=boundary,
        indicative=bool(told.get("indicative")),
    )


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def has_energies(profile: Values) -> bool:
    """Whether the profile was made with a meter, or tried to be."""
    return any(timed.get("energy") is not None for _, _, timed in phases_of_profile(profile))


def energy_table(profile: Values, title: str = "Energy of one inference") -> Table:
    """One row a phase: gross and net energy in mJ with their intervals, or the reason why there is none."""
    columns = (
        Column("phase", "phase"),
        Column("bundle", "bundle"),
        *(
            Column(f"{key}{end}_mj", words, "mJ", group)
            for key, group in (("energy", "gross"), ("net_energy", "net of idle"))
            for end, words in (("", "mean"), ("_low", "from"), ("_high", "to"))
        ),
        Column("repeats", "repeats"),
        Column("meter", "meter"),
        Column("boundary", "boundary"),
        Column("remark", "remark"),
    )
    rows = []
    confidences = set()
    for bundle, phase, timed in phases_of_profile(profile):
        energy = energy_of_phase(timed)
        confidences.add(energy.confidence)
        numbers = [energy.gross_mj, *(energy.gross_interval_mj or (None, None))]
        numbers += [energy.net_mj, *(energy.net_interval_mj or (None, None))]
        remark = f"energy: none ({energy.missing})" if energy.missing else "indicative" if energy.indicative else ""
        rows.append(
            (
                Cell(phase),
                Cell(bundle),
                *(Cell(None) if number is None else Cell(number, timed["origin"]) for number in numbers),
                Cell(str(energy.repeats) if energy.repeats else None),
                Cell(energy.meter),
                Cell(energy.boundary or None),
                Cell(remark or None),
            )
        )
    told = ", ".join(f"{100 * one:g} %" for one in sorted(one for one in confidences if one is not None))
    note = f"from, to: the {told} interval of the mean of the repeats" if told else ""
    return Table(title, columns, tuple(rows), note=note)
