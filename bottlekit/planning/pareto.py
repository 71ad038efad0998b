"""The Pareto front of the choices: those that no other one is at least as good as in everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from bottlekit.planning.selection import Choice

# Less is better in all of them. None: not known.
CRITERIA: Mapping[str, Callable[[Choice], float | None]] = MappingProxyType(
    {
        "offloaded_bytes": lambda choice: choice.candidate.offloaded_bytes,
        "device_macs": lambda choice: choice.candidate.device_macs,
        "accuracy": lambda choice: None if choice.candidate.accuracy is None else -choice.candidate.accuracy,
        "latency_ms": lambda choice: choice.latency_ms,
        "energy_mj": lambda choice: choice.energy_mj,
    }
)


def known_criteria(choices: Sequence[Choice]) -> tuple[str, ...]:
    """The criteria whose values are known of every choice: the others cannot be compared by."""
    return tuple(name for name, value in CRITERIA.items() if all(value(choice) is not None for choice in choices))


def pareto_front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices that no other one equals or beats in all known criteria and beats in one, in their order.

    Offloaded bytes x multiply-accumulates on the device x accuracy x latency x energy.
    """
    names = known_criteria(choices)
    values = [tuple(float(CRITERIA[name](choice) or 0.0) for name in names) for choice in choices]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in values)

    return tuple(choice for choice, mine in zip(choices, values, strict=True) if not beaten(mine))
