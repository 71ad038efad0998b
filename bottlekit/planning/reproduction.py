"""The papers' tables against the model they state, cell by cell.

    printed value, bytes, link --fit--> one constant per block --> computed value, residual

    latency  T = bytes * 8 / uplink + c_j     c_j: what device and server compute, the same on every network
    energy   E = P_up * (bytes * 8 / uplink) + e_j

Nothing but the constant of a block is fitted, so that three networks share one number: what does not follow from
that stays visible as a residual. A constant that gave every printed value of its block may not exist at all:
`follows` tells, from the step in which the values are printed.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from bottlekit.errors import UsageError
from bottlekit.planning.energy import energy_mj, transfer_ms, uplink_power_mw
from bottlekit.specs import LinkSpec

PRINTED_STEP = 0.1
"""The tables print tenths of ms and mJ."""

Fit = Callable[[Sequence[float], Sequence[float]], float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One value of a paper's table in ms or mJ: as `printed`, the `transfer` part of the model, the `constant`.

    `follows` is whether any constant at all gives the printed values of this block on all networks.
    """

    network: str
    block: int
    printed: float
    transfer: float
    constant: float
    follows: bool

    @property
    def computed(self) -> float:
        """What the model gives."""
        return self.transfer + self.constant

    @property
    def residual(self) -> float:
        """Computed against printed, as a fraction of the printed value; negative where too little is computed."""
        return self.computed / self.printed - 1.0

    @property
    def implied(self) -> float:
        """The constant that would give exactly this printed value; negative if the transfer alone is more."""
        return self.printed - self.transfer


def least_squares_constant(printed: Sequence[float], transfer: Sequence[float]) -> float:
    """The constant with the least sum of squared residuals, each a fraction of its printed value."""
    weights = [value**-2 for value in printed]
    implied = [value - part for value, part in zip(printed, transfer, strict=True)]
    return sum(w * c for w, c in zip(weights, implied, strict=True)) / sum(weights)


def median_constant(printed: Sequence[float], transfer: Sequence[float]) -> float:
    """The median over the networks of the constant each one implies: one network that differs does not move it."""
    return statistics.median(value - part for value, part in zip(printed, transfer, strict=True))


def latency_cells(
    printed_ms: Mapping[str, Sequence[float]],
    offloaded_bytes: Sequence[float],
    links: Mapping[str, LinkSpec],
    fit: Fit = least_squares_constant,
) -> tuple[Cell, ...]:
    """The cells of a latency table, block by block: `printed_ms` by network has one value per block."""
    parts = {name: [transfer_ms(size, links[name].uplink_mbps) for size in offloaded_bytes] for name in printed_ms}
    return _cells(printed_ms, parts, fit)


def energy_cells(
    printed_mj: Mapping[str, Sequence[float]],
    offloaded_bytes: Sequence[float],
    links: Mapping[str, LinkSpec],
    include_beta: bool,
    fit: Fit = least_squares_constant,
) -> tuple[Cell, ...]:
    """The cells of an energy table, block by block, with or without beta in the radio's power."""
    parts = {
        name: [transfer_mj(size, links[name], include_beta) for size in offloaded_bytes] for name in printed_mj
    }
    return _cells(printed_mj, parts, fit)


def transfer_mj(size_bytes: float, link: LinkSpec, include_beta: bool) -> float:
    """What the radio spends to send `size_bytes`, in mJ."""
    return energy_mj(uplink_power_mw(link, include_beta), transfer_ms(size_bytes, link.uplink_mbps))


def within(cells: Sequence[Cell], fraction: float) -> int:
    """How many cells have a residual of at most `fraction`, either way."""
    return sum(abs(cell.residual) <= fraction for cell in cells)


def median_residual(cells: Sequence[Cell]) -> float:
    """The median size of the residuals, as a fraction."""
    return statistics.median(abs(cell.residual) for cell in cells)


def _cells(
    printed: Mapping[str, Sequence[float]], transfers: Mapping[str, Sequence[float]], fit: Fit
) -> tuple[Cell, ...]:
    networks = list(printed)
    lengths = {len(column) for table in (printed, transfers) for column in table.values()}
    if len(lengths) != 1:
        raise UsageError(f"a table needs one value per block in every column; these have {sorted(lengths)}")
    cells = []
    for index in range(lengths.pop()):
        values = [printed[name][index] for name in networks]
        parts = [transfers[name][index] for name in networks]
        constant = fit(values, parts)
        follows = _one_constant_gives_all(values, parts)
        cells += [
            Cell(name, index + 1, value, part, constant, follows)
            for name, value, part in zip(networks, values, parts, strict=True)
        ]
    return tuple(cells)


def _one_constant_gives_all(printed: Sequence[float], transfer: Sequence[float]) -> bool:
    """Whether the constants that round to each printed value have one in common."""
    half = PRINTED_STEP / 2
    lowest = max(value - half - part for value, part in zip(printed, transfer, strict=True))
    highest = min(value + half - part for value, part in zip(printed, transfer, strict=True))
    # Zero and more: a computation neither takes less than no time nor gives energy back.
    return max(lowest, 0.0) <= highest
