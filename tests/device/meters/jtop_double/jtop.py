"""A double of jetson-stats, with its traps; what it does is in the variable JTOP_DOUBLE, as JSON.

VDD_IN is not among the rails but is the total; `avg` halves the past with every reading; on JetPack 4 `volt` and
`curr` are exchanged; there is no time; `ok` ends in silence. Its `import` prints, as libraries do.
"""

import json
import os
import time

__version__ = "4.3.2"

DOUBLE = json.loads(os.environ.get("JTOP_DOUBLE", "{}"))

NEVER = 10**9

print("jtop is here")

if DOUBLE.get("missing"):
    raise ImportError("No module named 'jtop'")


class JtopException(Exception):  # noqa: N818
    pass


class jtop:  # noqa: N801
    def __init__(self, interval):
        assert interval >= 0.5
        self.count = 0
        self.average = {}

    def __enter__(self):
        if "refuses" in DOUBLE:
            raise JtopException(DOUBLE["refuses"])
        return self

    def __exit__(self, *error):
        return None

    def ok(self):
        self.count += 1
        if self.count == DOUBLE.get("ends_after", NEVER) + 1:
            # As when its service stops: no error, nothing said.
            return False
        if self.count == DOUBLE.get("hangs_after", NEVER) + 1:
            time.sleep(60)
        if self.count == DOUBLE.get("dies_after", NEVER) + 1:
            os._exit(139)
        time.sleep(DOUBLE.get("pace_s", 0.01))
        return True

    @property
    def power(self):
        if "power" in DOUBLE:
            return DOUBLE["power"]
        rails = {
            "VDD_SYS_CPU": self.rail("VDD_SYS_CPU", 19064, 24, 457),
            "VDD_4V0_WIFI": self.rail("VDD_4V0_WIFI", 4776, 8, 38),
        }
        if DOUBLE.get("no_module_rail"):
            return {"rail": rails, "tot": {"power": sum(rail["power"] for rail in rails.values()), "avg": 1}}
        total = self.rail("VDD_IN", 19072, 216, DOUBLE.get("total_mw", 4000) + self.count)
        return {"rail": rails, "tot": dict(total, name="VDD_IN")}

    def rail(self, name, volt, curr, power):
        self.average[name] = (power + self.average.get(name, 0)) // 2
        return {"volt": curr, "curr": volt, "power": power, "avg": self.average[name], "warn": 32760, "crit": 32760}
