"""Writes registers.json: what each kernel uses on each GPU, as NVRTC 12.9's ptxas tells it."""

from __future__ import annotations

import re
from pathlib import Path

from bottlekit.device.files import write_json
from bottlekit.device.kernels import KERNELS, compile_kernel
from bottlekit.device.nvrtc import Nvrtc

# 1080 Ti, TX2, Xavier, Orin, H100.
SMS = ("6.1", "6.2", "7.2", "8.7", "9.0")


def usage(log: str) -> dict[str, int]:
    """Registers, shared memory and spills of one kernel, from the compiler's log."""
    return {
        "registers": _number(r"Used (\d+) registers", log),
        "shared_bytes": _number(r"(\d+) bytes smem", log),
        "spill_bytes": _number(r"(\d+) bytes spill stores", log) + _number(r"(\d+) bytes spill loads", log),
    }


def _number(pattern: str, log: str) -> int:
    found = re.search(pattern, log)
    return int(found[1]) if found else 0


def main() -> None:
    """Compile everything, write the report."""
    nvrtc = Nvrtc(sm=SMS[0])
    report = {
        "nvrtc": ".".join(map(str, nvrtc.version)),
        "usage": {kernel: {sm: usage(compile_kernel(kernel, sm, nvrtc).log) for sm in SMS} for kernel in KERNELS},
    }
    write_json(str(Path(__file__).with_name("registers.json")), report)


if __name__ == "__main__":
    main()
