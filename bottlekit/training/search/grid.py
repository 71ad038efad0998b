"""The reductions that a search tries at one split point, from the fewest values sent to the most.

Algorithm 1 asks for the architecture "with the minimum bit requirement" (BottleNet, section 2.3). What a codec
makes of it is known after training only; how many values are coded is known before, and orders a grid.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from bottlekit.errors import UsageError
from bottlekit.specs import BottleneckKind, BottleneckSpec, SplitSpec


@dataclasses.dataclass(frozen=True)
class Reduction:
    """One architecture of the unit: `channels` c' (D_r for butterfly) and `spatial` s."""

    channels: int
    spatial: int = 1

    def __str__(self) -> str:
        return f"c{self.channels}" + (f"-s{self.spatial}" if self.spatial > 1 else "")

    def spec(self, kind: BottleneckKind, split: str) -> BottleneckSpec:
        """The unit that this reduction is at a split point, with the smallest filter that fits."""
        return BottleneckSpec(kind, split, self.channels, self.spatial, max(3, self.spatial + 1))

    def values(self, split: SplitSpec) -> int:
        """Values that are sent: c' * ceil(h / s) * ceil(w / s)."""
        return self.channels * -(-split.height // self.spatial) * -(-split.width // self.spatial)


def grid(
    kind: BottleneckKind, split: SplitSpec, channels: Sequence[int], spatials: Sequence[int]
) -> tuple[Reduction, ...]:
    """All pairs that fit the split point, fewest values first; of equals the one with fewer channels first.

    A pair with more channels than the split point has is left out, so that one grid serves a whole network.
    Raises UsageError for numbers that no unit takes, and where nothing is left.
    """
    if not channels or not spatials:
        raise UsageError("the grid is empty: --channels and --spatial need at least one number each")
    pairs = {Reduction(c, s) for c in channels for s in spatials}
    if any(pair.channels == 0 for pair in pairs):
        raise UsageError("a search tries numbers of channels: --channels must be 1 or more, not 0")
    for pair in pairs:
        pair.spec(kind, split.name)  # refuses what no unit can be
    fitting = [
        pair for pair in pairs if pair.channels <= split.channels and pair.spatial <= max(split.height, split.width)
    ]
    if not fitting:
        raise UsageError(
            f"the grid is empty at {split.name}, which has {split.channels} channels of {split.height} x "
            f"{split.width}: --channels {min(channels)} or --spatial {min(spatials)} is more than that"
        )
    return tuple(sorted(fitting, key=lambda pair: (pair.values(split), pair.channels)))


def numbers_from_text(text: str, option: str) -> list[int]:
    """ "1,2,5" or "1-5,10" as numbers, ascending and each once. Raises UsageError naming the option."""
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match is None:
            raise UsageError(
                f"{option} takes whole numbers and ranges with commas between them (1-5,10), not '{part}'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{option}: the range {part} runs backwards")
        numbers.update(range(first, last + 1))
    if not numbers:
        raise UsageError(f"the grid is empty: {option} needs at least one number")
    return sorted(numbers)
