"""What TensorRT's error texts mean, and what to do about them.

TensorRT explains itself in its log only. The patterns are those that its versions 8.2 to 11 really print; the
raw log is kept beside every engine, so that nothing is lost by classifying it.
"""

import re
from typing import List, NamedTuple, Optional


class Cause(NamedTuple):
    """One known failure: a short name for programs, what it means, what to do."""

    name: str
    meaning: str
    advice: str


_NO_MEMORY = Cause(
    "out-of-memory",
    "the GPU or the machine ran out of memory",
    "lower --workspace-mb, stop other programs (on a Jetson: the desktop), or add swap",
)
_OTHER_VERSION = Cause(
    "other-version", "the plan was built by another TensorRT", "build it again on this machine: bottlekit build"
)

# First match wins: the specific before the general.
_PATTERNS = [
    (
        r"Half2 support requested on hardware without native FP16",
        Cause(
            "slow-fp16", "this GPU has no fast FP16", "use --precision fp32; an FP16 engine saves memory, not time"
        ),
    ),
    (
        r"Unsupported SM: 0x[0-9a-f]+|Target GPU SM \d+ is not supported",
        Cause(
            "unsupported-gpu",
            "this TensorRT does not know this GPU: it is too new for it, or too old",
            "install the TensorRT version that `bottlekit targets` lists for the machine",
        ),
    ),
    (r"expecting library version \S+ got \S+|Current Version: \d+, Serialized Engine Version: \d+", _OTHER_VERSION),
    (
        r"generated on an incompatible device|expecting compute \S+ got compute \S+",
        Cause(
            "other-gpu",
            "the plan was built on another kind of GPU",
            "build it again on this machine: bottlekit build",
        ),
    ),
    (
        r"magic ?[tT]ag",
        Cause(
            "not-a-plan",
            "the file is no plan, or something was written in front of it",
            "copy it again as binary, or build it again",
        ),
    ),
    (
        r"No importer registered for op: \S+|Plugin not found|getPluginCreator could not find plugin",
        Cause(
            "unsupported-op",
            "this TensorRT has no such operator, or a plugin library is not loaded",
            "run bottlekit build --check-only to see which operators the target lacks; load the plugin library",
        ),
    ),
    (
        r"Tactic Device request: .*Available: |insufficient memory|[oO]ut ?[oO]f ?[mM]emory|memory ran out",
        _NO_MEMORY,
    ),
    # Nearly always memory: TensorRT drops every tactic whose workspace does not fit, until none is left.
    (r"Could not find any implementation for node", _NO_MEMORY),
    (
        r"invalid device context|context stack was not empty",
        Cause(
            "cuda-context",
            "CUDA contexts were pushed and popped unevenly",
            "do not mix pycuda.autoinit with bottlekit",
        ),
    ),
    (
        r"Illegal instruction",
        Cause("illegal-instruction", "numpy 1.19.5 crashes on Jetson", "type: pip3 install numpy==1.19.4"),
    ),
    (
        r"FP32 values which would overflow in FP16",
        Cause(
            "fp16-overflow",
            "weights are too large for FP16",
            "normalise the inputs, or use --precision fp32",
        ),
    ),
    (
        r"no optimization profile has been defined",
        Cause(
            "no-profile",
            "the graph has free dimensions and no profile",
            "pass --max-batch, or export with --batch 1",
        ),
    ),
]


def classify(text: str) -> Optional[Cause]:
    """The first known cause in a log or an error text; None when nothing in it is known."""
    for pattern, cause in _PATTERNS:
        if re.search(pattern, text):
            return cause
    return None


def cause_of_exit(status: int) -> Optional[Cause]:
    """The cause behind a build process's exit status: killed for memory is 137 in a shell, -9 from Python."""
    if status in (137, -9):
        return Cause("killed", "the system killed the build because memory ran out", _NO_MEMORY.advice)
    if status in (-4, 132):
        return Cause("illegal-instruction", "numpy 1.19.5 crashes on Jetson", "type: pip3 install numpy==1.19.4")
    if status in (-11, 139):
        return Cause("crashed", "TensorRT crashed", "see the log; try --precision fp32, or a smaller --max-batch")
    return None


def explain(errors: List[str]) -> str:
    """TensorRT's last words on one line, with what they mean and what to do where that is known."""
    if not errors:
        return "it gave no reason in its log"
    text = " ".join(" ".join(error.split()) for error in errors)
    cause = classify(text)
    last = " ".join(errors[-1].split())
    if cause is None:
        return last
    return "{}; {} ({})".format(cause.meaning, cause.advice, last)
