"""Which meters there are, which of them work on this machine, and which one to take.

::

    "auto"   the first that works of ina3221, jtop, nvml, rapl; else none, with the reasons
             (a CPU is not measured by nvml, nor a GPU by rapl; ina226 and replay are never guessed)
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import BottlekitError, MeterError, UnknownNameError, UsageError
from ..power_trace import PowerTrace
from .ina226 import BOUNDARY, Ina226HwmonMeter, Ina226I2cMeter
from .ina226_registers import Ina226
from .ina3221 import Ina3221Meter
from .jtop import LEAST_INTERVAL_S, JtopMeter
from .meter import Meter
from .none import NoMeter
from .nvml import NvmlMeter
from .rapl import RaplMeter
from .replay import ReplayMeter

METER_NAMES = ("ina3221", "ina226", "nvml", "rapl", "jtop", "replay", "none")

# In which order `auto` looks. What a meter of another processor would measure is not what was asked for.
_AUTO = ("ina3221", "jtop", "nvml", "rapl")
_WRONG = {"cpu": ("nvml",), "gpu": ("rapl",)}


class Sources(NamedTuple):
    """Where the meters look; the defaults are this machine.

    Attributes:
        root: where the system's files are.
        rails: rails of ina3221, the boundary's first.
        nvml: the module pynvml; gpu: which GPU; counter: whether its energy counter is used.
        i2c_bus: the number of the I2C bus of an INA226, or an SMBus; None for hwmon. i2c_address, shunt_ohm and
            max_current_a: the chip's. hwmon_device: which of several in hwmon ("1-0040").
        external_boundary: what the INA226's shunt feeds.
        jtop_interval_s, jtop_command: as in JtopMeter.
        trace: what is replayed, a path or a PowerTrace.
        processor: "cpu" or "gpu", what runs while it is measured; None if it is not known.
    """

    root: str = "/"
    rails: Optional[Sequence[str]] = None
    nvml: Any = None
    gpu: int = 0
    counter: bool = True
    i2c_bus: Any = None
    i2c_address: int = 0x40
    shunt_ohm: Optional[float] = None
    max_current_a: Optional[float] = None
    hwmon_device: Optional[str] = None
    external_boundary: str = BOUNDARY
    jtop_interval_s: float = LEAST_INTERVAL_S
    jtop_command: Optional[Sequence[str]] = None
    trace: Union[PowerTrace, str, None] = None
    processor: Optional[str] = None


def meter_from_name(name: str, **sources: Any) -> Meter:
    """The meter of a name, not yet open. `auto` takes one that works, and its `why_chosen` says why.

    `sources` are the fields of Sources. UnknownNameError for a name that is neither "auto" nor in METER_NAMES,
    UsageError for a source of the wrong kind.
    """
    given = _checked(Sources(**sources))
    if name == "auto":
        return _auto(given)
    if name not in METER_NAMES:
        raise UnknownNameError("meter", name, ("auto",) + METER_NAMES)
    return _meter(name, given)


def list_meters(**sources: Any) -> List[Dict[str, Any]]:
    """Every meter, as JSON values: name, available, why_not, kind, boundary, rails, quantum, auto.

    Each is opened and read once; `auto` marks the one that is taken when nobody chooses.
    """
    given = _checked(Sources(**sources))
    meters = [_row(name, given) for name in METER_NAMES]
    available = [row["name"] for row in meters if row["available"]]
    chosen = next((name for name in _order(given) if name in available), "none")
    return [dict(row, auto=row["name"] == chosen) for row in meters]


# What a source must be, where words that a person typed may have become something else.
_KINDS: Dict[str, Tuple[Tuple[type, ...], str]] = {
    "root": ((str,), "a folder"),
    "rails": ((list, tuple), "a list of rails"),
    "gpu": ((int,), "a GPU's number"),
    "i2c_address": ((int,), "a number from 0x40 to 0x4f"),
    "shunt_ohm": ((int, float), "a number of ohms"),
    "max_current_a": ((int, float), "a number of amperes"),
    "hwmon_device": ((str,), "a bus and an address, like 1-0040"),
    "external_boundary": ((str,), "words"),
    "jtop_interval_s": ((int, float), "a number of seconds"),
    "trace": ((str, PowerTrace), "the name of a file"),
}


def _checked(given: Sources) -> Sources:
    """The sources, if each is of its kind; UsageError for one that is not."""
    values = given._asdict()
    for name, (kinds, words) in _KINDS.items():
        value = values[name]
        # A truth is an int to Python.
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise UsageError("a meter's {} must be {}, not {!r}".format(name, words, value))
    if not isinstance(given.counter, bool):
        raise UsageError("a meter's counter must be true or false, not {!r}".format(given.counter))
    if isinstance(given.i2c_bus, (str, float, bool)):
        raise UsageError("a meter's i2c_bus must be the number of a bus, not {!r}".format(given.i2c_bus))
    return given


def _meter(name: str, given: Sources) -> Meter:
    if name == "ina3221":
        return Ina3221Meter(given.root, given.rails)
    if name == "ina226":
        if given.i2c_bus is None:
            return Ina226HwmonMeter(given.root, given.hwmon_device, given.external_boundary)
        chip = Ina226(given.shunt_ohm, given.i2c_bus, given.i2c_address, given.max_current_a)
        return Ina226I2cMeter(chip, given.external_boundary)
    if name == "nvml":
        return NvmlMeter(given.nvml, given.gpu, given.counter)
    if name == "rapl":
        return RaplMeter(given.root)
    if name == "jtop":
        return JtopMeter(given.jtop_interval_s, given.jtop_command)
    if name == "replay":
        return ReplayMeter(given.trace)
    return NoMeter("no meter was asked for")


def _order(given: Sources) -> Tuple[str, ...]:
    """The meters that `auto` may take, the best first."""
    if given.processor is not None and given.processor not in _WRONG:
        raise UsageError("what is measured runs on a cpu or a gpu, not on '{}'".format(given.processor))
    wrong = _WRONG.get(given.processor or "", ())
    return tuple(name for name in _AUTO if name not in wrong)


def _auto(given: Sources) -> Meter:
    order = _order(given)
    reasons: List[str] = []
    for name in order:
        meter = _meter(name, given)
        try:
            with meter:
                meter.read()
        except MeterError as error:
            reasons.append(str(error))
            continue
        meter.why_chosen = "auto: the first of {} that works".format(", ".join(order))
        return meter
    none = NoMeter("; ".join(reasons))
    none.why_chosen = "auto: none of {} works".format(", ".join(order))
    return none


def _row(name: str, given: Sources) -> Dict[str, Any]:
    row: Dict[str, Any] = {"name": name, "available": True, "why_not": None}
    try:
        meter = _meter(name, given)
        with meter:
            meter.read()
            return dict(
                row, kind=meter.kind, boundary=meter.boundary, rails=list(meter.rails), quantum=meter.quantum
            )
    except BottlekitError as error:
        return dict(row, available=False, why_not=str(error), kind=None, boundary=None, rails=[], quantum=None)
