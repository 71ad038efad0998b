"""The options of a measurement of energy, as the command line and the agent take them.

--power --meter NAME --meter-source NAME=VALUE --power-mode N --lock-clocks --quick
options --words--> the same for an agent on another machine
        --request-> PowerRequest: the meter chosen and tried once, before anything is measured
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .energy_effort import QUICK_ENERGY, EnergyEffort
from .energy_phase import PowerRequest
from .engine import Engine
from .errors import UnknownNameError, UsageError
from .meters.choose import Sources, meter_from_name
from .meters.none import NoMeter

# What words can say of where a meter looks.
SOURCES = tuple(name for name in Sources._fields if name not in ("nvml", "jtop_command", "processor"))


class PowerOptions(NamedTuple):
    """What was asked for; `sources` are words like `i2c_bus=1`. The power mode and the clocks need no meter."""

    power: bool = False
    meter: Optional[str] = None
    sources: Sequence[str] = ()
    power_mode: Optional[int] = None
    lock_clocks: bool = False
    quick: bool = False

    def given(self) -> List[str]:
        """The names of the options that were given, --quick aside: latencies have it, too."""
        return [word for word in self._replace(quick=False).words() if word.startswith("--")]

    def words(self) -> List[str]:
        """The options as an agent takes them."""
        words = ["--power"] if self.power else []
        words += [] if self.meter is None else ["--meter", self.meter]
        for source in self.sources:
            words += ["--meter-source", source]
        words += [] if self.power_mode is None else ["--power-mode", str(self.power_mode)]
        words += ["--lock-clocks"] if self.lock_clocks else []
        return words + (["--quick"] if self.quick else [])

    def request(self, engines: Sequence[Engine]) -> Optional[PowerRequest]:
        """How the energy of these engines is measured, None where it was not asked for.

        Raises UsageError for a meter without --power; MeterError for one that was asked for and does not work here:
        `auto` then takes `none`.
        """
        if not self.power:
            for name, useless in (("--meter", self.meter is not None), ("--meter-source", bool(self.sources))):
                if useless:
                    raise UsageError("{} is for --power, which measures energy; add it".format(name))
            return None
        sources = sources_from_words(self.sources)
        sources["processor"] = _processor(engines)
        effort = QUICK_ENERGY if self.quick else EnergyEffort()
        meter = meter_from_name(self.meter or "auto", **sources)
        if isinstance(meter, NoMeter):
            return PowerRequest("none", meter.reason, sources, effort)
        with meter:
            meter.read()
        return PowerRequest(meter.name, meter.why_chosen, sources, effort)

    def told(self, request: Optional[PowerRequest], power_mode: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """What a profile says under `power`, None where nothing of this was asked for; see docs/reference."""
        if request is None and not self.given():
            return None
        measured = {} if request is None else dict(request.to_dict(), sources=list(self.sources))
        return dict(measured, power_mode=power_mode)


def sources_from_words(words: Sequence[str]) -> Dict[str, Any]:
    """Where meters look, from words like `i2c_bus=1`, `rails=VDD_IN,VDD_SYS_CPU`, `trace=recorded.json`.

    Raises UsageError for words without `=`, UnknownNameError for a name that is not in SOURCES.
    """
    found: Dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError("a meter's source is NAME=VALUE, not '{}'; names: {}".format(word, ", ".join(SOURCES)))
        if name not in SOURCES:
            raise UnknownNameError("meter's source", name, SOURCES)
        found[name] = text.split(",") if name == "rails" else _value(text)
    return found


def _value(text: str) -> Any:
    """A number or a truth where it is one, else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (lambda word: int(word, 0), float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _processor(engines: Sequence[Engine]) -> Optional[str]:
    """What engines run on: "cpu" for ONNX Runtime's, "gpu" for others; None for both or none of them."""
    found = {"cpu" if engine.kind == "onnxruntime" else "gpu" for engine in engines}
    return found.pop() if len(found) == 1 else None
