"""What a hybrid network is, beside its backbone."""

from __future__ import annotations

import dataclasses

from bottlekit.errors import UsageError
from bottlekit.models.splits import split_spec, split_specs
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, SplitSpec

BITS = (1, 2, 4, 8)
FULL_PRECISION = 32


@dataclasses.dataclass(frozen=True)
class HybridSpec:
    """The device's part: blocks up to `last_block` in `bits` bits, an exit behind each block in `exits`.

    `bits` 1 is binary, 32 leaves the blocks as they are. `exits` are blocks in their order, none behind
    `last_block`, where the device's part ends. An exit averages windows of `pool` x `pool` (Conditionally Deep
    Hybrid Neural Networks, section 4: 3), or everything where the feature is smaller, and ends in a linear layer.
    `bottleneck` is a unit behind the last block (None: the feature is sent as it is), `codec` what is sent.
    """

    last_block: str
    bits: int
    exits: tuple[str, ...]
    pool: int = 3
    bottleneck: BottleneckSpec | None = None
    codec: CodecSpec = dataclasses.field(default_factory=lambda: CodecSpec("raw"))

    def __post_init__(self) -> None:
        """Refuse what is wrong whatever the backbone (UsageError)."""
        if self.bits not in (*BITS, FULL_PRECISION):
            known = ", ".join(str(bits) for bits in BITS)
            raise UsageError(
                f"--edge-bits must be {known}, or {FULL_PRECISION} for full precision, not {self.bits}"
            )
        if not self.exits:
            raise UsageError("a hybrid network needs at least one exit: name a block with --exits")
        if self.pool < 1:
            raise UsageError(f"--exit-pool must be at least 1, not {self.pool}")
        if self.bottleneck is not None and self.bottleneck.split != self.last_block:
            raise UsageError(
                f"the bottleneck stands at {self.bottleneck.split}, and the device's part ends at {self.last_block}"
            )


def exit_splits(model: ModelSpec, spec: HybridSpec) -> list[SplitSpec]:
    """The blocks behind which the exits stand, with their shapes, in the order of execution.

    Raises UnknownNameError for a block that the backbone has not, UsageError for more exits than blocks, one that
    is named twice or out of order, or one behind the device's part.
    """
    last = split_spec(model, spec.last_block)
    blocks = [split.name for split in split_specs(model) if split.index <= last.index]
    found = [split_spec(model, name) for name in spec.exits]
    if len(found) > len(blocks):
        raise UsageError(
            f"{len(found)} exits are more than the {len(blocks)} blocks up to {last.name} of {model.backbone}"
        )
    for split in found:
        if split.index > last.index:
            raise UsageError(
                f"the exit at {split.name} lies behind {last.name}, where the device's part ends; "
                f"it can be at {', '.join(blocks)}"
            )
    indices = [split.index for split in found]
    if indices != sorted(set(indices)):
        raise UsageError(f"--exits must name different blocks in their order, not {','.join(spec.exits)}")
    return found
