"""An NVIDIA GPU's own sensor, through NVML (the package nvidia-ml-py): the energy counter, or power.

The counter of Volta and later is exact for what the sensor sees; older GPUs, like the GTX 1080 Ti, only have power.
From Ampere on, `nvmlDeviceGetPowerUsage` is an average over a second, so that the instantaneous power is asked for
where the driver has it.
"""

import importlib
from typing import Any, Callable, Dict, Optional, Tuple

from ..errors import MeterError, ReadingError
from .meter import Meter

_POWER_INSTANT = 186

# Bits of NVML's clock event reasons that mean: slower than the clocks that were asked for.
_THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


class NvmlMeter(Meter):
    """Energy of a GPU's board in mJ where it has a counter, else its power in mW.

    Args:
        nvml: the module pynvml, or what behaves like it; None to import it when the meter is opened.
        gpu: which GPU, as nvidia-smi counts.
        counter: whether the energy counter is used where there is one.
    """

    name = "nvml"
    rails = ("gpu",)
    boundary = "GPU board"
    _permission = "run it as root"

    def __init__(self, nvml: Any = None, gpu: int = 0, counter: bool = True) -> None:
        super().__init__()
        self._given = nvml
        self._gpu = gpu
        self._counter = counter
        self._nvml: Any = None
        self._handle: Any = None
        self._source = ""
        self._began_mj = 0
        self._settings: Dict[str, Any] = {}

    def _open(self) -> None:
        nvml = self._nvml = self._given or _import_nvml()
        self._ask(nvml.nvmlInit)
        self._handle = self._ask(nvml.nvmlDeviceGetHandleByIndex, self._gpu)
        name = _words(self._ask(nvml.nvmlDeviceGetName, self._handle))
        self.boundary = "GPU board ({})".format(name)
        if self._counter and self._has(nvml.nvmlDeviceGetTotalEnergyConsumption):
            self.kind, self._source = "energy", "nvmlDeviceGetTotalEnergyConsumption"
            self._began_mj = self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        elif self._instant_mw() is not None:
            self.kind, self._source = "power", "NVML_FI_DEV_POWER_INSTANT"
        else:
            self.kind, self._source = "power", "nvmlDeviceGetPowerUsage"
            self._ask(nvml.nvmlDeviceGetPowerUsage, self._handle)
        # NVML counts whole mW and whole mJ.
        self.quantum = 1.0
        self._settings = {
            "driver": "NVML {}".format(self._optional("nvmlSystemGetDriverVersion")),
            "source": self._source,
            "gpu": self._gpu,
            "power_limit_mw": self._optional("nvmlDeviceGetEnforcedPowerLimit", self._handle),
            "persistence_mode": self._optional("nvmlDeviceGetPersistenceMode", self._handle),
        }

    def _close(self) -> None:
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                # It was never begun, or the driver went away: there is nothing to shut down.
                pass

    def _values(self) -> Tuple[float, ...]:
        try:
            return (self._value(),)
        except MeterError as error:
            raise ReadingError("{}; the GPU stopped answering during the measurement".format(error))

    def _value(self) -> float:
        if self.kind == "energy":
            now_mj = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
            return float(now_mj - self._began_mj)
        if self._source == "nvmlDeviceGetPowerUsage":
            return float(self._ask(self._nvml.nvmlDeviceGetPowerUsage, self._handle))
        power_mw = self._instant_mw()
        if power_mw is None:
            raise MeterError("NVML gives no instantaneous power any more")
        return power_mw

    def _instant_mw(self) -> Optional[float]:
        """The power of this moment, or None where this GPU or driver does not tell it."""
        try:
            field = self._nvml.nvmlDeviceGetFieldValues(self._handle, [_POWER_INSTANT])[0]
        except (AttributeError, self._nvml.NVMLError):
            return None
        return float(field.value.uiVal) if field.nvmlReturn == 0 else None

    def throttling(self) -> Tuple[str, ...]:
        """Why the GPU runs below its clocks at this moment; empty where it does not, or does not tell."""
        # The newer of the two names came with CUDA 12.
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            reasons = self._optional(name, self._handle)
            if reasons is not None:
                return tuple(words for bit, words in sorted(_THROTTLING.items()) if reasons & bit)
        return ()

    def _facts(self) -> Dict[str, Any]:
        return self._settings

    def _optional(self, name: str, *arguments: Any) -> Any:
        """What NVML answers, or None where it does not tell."""
        try:
            answer = getattr(self._nvml, name)(*arguments)
        except (AttributeError, self._nvml.NVMLError):
            return None
        return _words(answer) if isinstance(answer, (bytes, str)) else answer

    def _has(self, ask: Callable[[Any], Any]) -> bool:
        """Whether the GPU answers a question; that it does not support it is an answer, all else is an error."""
        try:
            ask(self._handle)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == self._nvml.NVML_ERROR_NOT_SUPPORTED:
                return False
            raise MeterError(_told(error))
        return True

    def _ask(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """NVML's answer; MeterError with its words where it refuses."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            raise MeterError(_told(error))


def _import_nvml() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise MeterError(
            "the meter nvml needs the Python package nvidia-ml-py, which is not installed; type: pip3 install "
            "nvidia-ml-py"
        )


def _told(error: Exception) -> str:
    return "the meter nvml gets no answer from NVML: {}; `nvidia-smi` shows whether the driver works".format(
        " ".join(str(error).split())
    )


def _words(answer: Any) -> str:
    """Older packages answer with bytes."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
