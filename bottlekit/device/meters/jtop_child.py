"""`python -m bottlekit.device.meters.jtop_child INTERVAL`: what jetson-stats says, as JSON lines.

jetson-stats is under the AGPL: it runs here, in a process of its own, and nothing else of bottlekit imports it.

    {"event": "started", "version": "4.3.2", "boundary": "VDD_IN" or null, "rails": ["VDD_SYS_CPU", ...]}
    {"event": "reading", "time_s": monotonic, "total_mw": ..., "rails_mw": [...]}
    {"event": "error", "kind": class name, "message": line}
    {"event": "end"}                jtop itself has ended: it does so in silence when its service stops
"""

import json
import os
import sys
import time
from typing import Any, Callable


def listen(interval_s: float, tell: Callable[..., None]) -> None:
    """Tell every reading, until jtop ends."""
    from jtop import __version__, jtop

    with jtop(interval=interval_s) as service:
        rails = None
        while service.ok():
            # jtop gives no time: this is when the reading arrived.
            time_s = time.monotonic()
            # {"tot": {"power": mW, "name": its rail, ...}, "rail": {name: {"power": mW, ...}}}. `avg` halves the
            # past with every reading; on JetPack 4 `volt` and `curr` are exchanged. Only `power` is used.
            power = service.power
            total = power["tot"]
            if rails is None:
                rails = sorted(power["rail"])
                tell("started", version=__version__, boundary=total.get("name"), rails=rails)
            tell(
                "reading",
                time_s=time_s,
                total_mw=total["power"],
                rails_mw=[power["rail"][name]["power"] for name in rails],
            )
    tell("end")


def main() -> None:
    """Listen, and tell on standard output. What jtop prints there goes to standard error."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: str, **values: Any) -> None:
        told.write(json.dumps(dict(event=event, **values)) + "\n")
        told.flush()

    try:
        listen(float(sys.argv[1]), tell)
    except BrokenPipeError:
        # Nobody listens any more. The file must not be flushed again at the end.
        os._exit(0)
    # Whatever jtop raises is told to the process that asked.
    except Exception as error:
        tell("error", kind=type(error).__name__, message=" ".join(str(error).split()))


if __name__ == "__main__":
    main()
