"""Which precision to build with: what the target has, what it lacks and why, what would run better."""

from __future__ import annotations

from bottlekit.errors import UsageError
from bottlekit.targets.loader import Precision, TargetSpec


def precision_for(target: TargetSpec, asked: str | None) -> Precision:
    """The precision to build with: the one asked for, or the target's first; UsageError if it has none such."""
    if asked is None:
        return target.precisions[0]
    for precision in target.precisions:
        if precision == asked:
            return precision
    if asked == "int8" and target.abilities.int8 == "none":
        raise UsageError(
            f"--precision int8 is not for {target.name}: its GPU has no INT8 instructions (SM {target.sm}); "
            f"use --precision {target.precisions[0]}"
        )
    raise UsageError(f"--precision {asked} is not for {target.name}; it builds: {', '.join(target.precisions)}")


def advice_for(target: TargetSpec, precision: Precision) -> str | None:
    """What to say to somebody who asked for a precision that the hardware has no fast arithmetic for, or None."""
    rate = {"fp32": "native", "fp16": target.abilities.fp16, "int8": target.abilities.int8}[precision]
    if rate != "slow":
        return None
    name = precision.upper()
    return (
        f"{name} runs {_rate_of(target, precision)} on {target.name}: the engine will be smaller, not faster; "
        f"for speed add --precision {target.precisions[0]}"
    )


def _rate_of(target: TargetSpec, precision: Precision) -> str:
    """How fast a precision runs against FP32, from the target's peaks where they tell."""
    if precision == "fp16" and target.peaks:
        peak = target.peaks[0]
        return f"at 1/{round(peak.fp32_gflops / peak.fp16_gflops)} of FP32's rate"
    return "slower than FP32"
