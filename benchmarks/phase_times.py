"""How long each phase takes for one input after the other. Imports nothing, so that any environment can use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WARM_UPS = 20


def phases_in_turns(
    phases: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], warm_ups: int = WARM_UPS
) -> dict[str, list[float]]:
    """Raw milliseconds of each phase for each input, in their order; `warm_ups` inputs before them are not kept.

    The first phase takes an input, every other what the one before it gave.
    """
    samples: dict[str, list[float]] = {name: [] for name in phases}
    for number in range(-warm_ups, len(inputs)):
        value = inputs[number % len(inputs)]
        for name, phase in phases.items():
            start = time.perf_counter()
            value = phase(value)
            elapsed_ms = 1000 * (time.perf_counter() - start)
            if number >= 0:
                samples[name].append(elapsed_ms)
    return samples
