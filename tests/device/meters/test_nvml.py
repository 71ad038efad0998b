import json
import sys
from pathlib import Path

import pytest

from bottlekit.device.errors import MeterError, ReadingError
from bottlekit.device.meters import nvml as module
from bottlekit.device.meters.nvml import NvmlMeter

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Nvml

VOLTA = ("energy", "clocks")
ADA = ("energy", "clocks", "events", "instant")


def test_a_pascal_gpu_has_power_only():
    nvml = Nvml(has=("clocks",))
    with NvmlMeter(nvml) as meter:
        assert (meter.kind, meter.rails) == ("power", ("gpu",))
        assert meter.boundary == "GPU board (GeForce GTX 1080 Ti)"
        assert meter.read() == (55123.0,)
        nvml.power_mw = 60000
        assert meter.read() == (60000.0,)
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["source"] == "nvmlDeviceGetPowerUsage"
    assert facts["driver"] == "NVML 470.256.02"
    assert facts["power_limit_mw"] == 250000
    assert facts["persistence_mode"] is None
    assert facts["quantum_mw"] == 1.0
    assert nvml.begun == 0


def test_volta_and_later_count_energy_from_the_opening():
    nvml = Nvml("NVIDIA TITAN V", VOLTA)
    with NvmlMeter(nvml) as meter:
        assert meter.kind == "energy"
        assert meter.read() == (0.0,)
        nvml.energy_mj += 4321
        assert meter.read() == (4321.0,)
        assert meter.facts()["quantum_mj"] == 1.0
    with meter:
        assert meter.read() == (0.0,)


def test_the_facts_stay_after_it_is_closed():
    with NvmlMeter(Nvml(has=VOLTA)) as meter:
        inside = meter.facts()
    assert meter.facts() == inside


def test_the_power_of_this_moment_goes_before_the_average_over_a_second():
    nvml = Nvml("NVIDIA L4", ADA)
    with NvmlMeter(nvml, counter=False) as meter:
        assert meter.kind == "power"
        assert meter.read() == (55130.0,)
        assert meter.facts()["source"] == "NVML_FI_DEV_POWER_INSTANT"
        nvml.has = ("energy",)
        with pytest.raises(ReadingError, match="no instantaneous power any more"):
            meter.read()


class OldNvml(Nvml):
    """A package from before fields."""

    @property
    def nvmlDeviceGetFieldValues(self):  # noqa: N802
        raise AttributeError("nvmlDeviceGetFieldValues")


def test_packages_without_fields_have_power_all_the_same():
    with NvmlMeter(OldNvml()) as meter:
        assert meter.read() == (55123.0,)


@pytest.mark.parametrize("has", [("clocks",), ("clocks", "events")])
@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (0, ()),
        (0x1 | 0x2 | 0x100, ()),
        (0x4, ("power cap",)),
        (0x1 | 0x20 | 0x40, ("software thermal slowdown", "hardware thermal slowdown")),
        (0x8 | 0x80, ("hardware slowdown", "power brake")),
    ],
)
def test_throttling_is_told_and_idling_is_not(has, reasons, words):
    nvml = Nvml(has=has)
    nvml.reasons = reasons
    with NvmlMeter(nvml) as meter:
        assert meter.throttling() == words


def test_a_gpu_that_does_not_tell_its_clocks_is_not_called_throttled():
    with NvmlMeter(Nvml()) as meter:
        assert meter.throttling() == ()


@pytest.mark.parametrize(("code", "words"), [(9, "Driver Not Loaded"), (4, "Insufficient Permissions")])
def test_nvmls_refusals_are_told_in_its_words(code, words):
    nvml = Nvml(has=VOLTA)
    nvml.fails = code
    with pytest.raises(MeterError, match="gets no answer from NVML: {}; `nvidia-smi` shows".format(words)):
        NvmlMeter(nvml).open()
    assert nvml.begun == 0


def test_a_counter_that_is_refused_is_not_one_that_is_missing():
    nvml = Nvml(has=VOLTA)

    def refused(handle):
        raise nvml.NVMLError(4)

    nvml.nvmlDeviceGetTotalEnergyConsumption = refused
    with pytest.raises(MeterError, match="Insufficient Permissions"):
        NvmlMeter(nvml).open()
    assert nvml.begun == 0


@pytest.mark.parametrize("has", [(), VOLTA])
def test_a_gpu_that_falls_off_the_bus(has):
    nvml = Nvml(has=has)
    with NvmlMeter(nvml) as meter:
        meter.read()
        nvml.fails = 15
        with pytest.raises(ReadingError, match="the GPU stopped answering during the measurement"):
            meter.read()
        nvml.fails = None


def test_a_counter_that_was_reset_is_refused():
    nvml = Nvml(has=VOLTA)
    with NvmlMeter(nvml) as meter:
        nvml.energy_mj += 500
        meter.read()
        nvml.energy_mj -= 100
        with pytest.raises(ReadingError, match="the energy of gpu went back from 500 to 400 mJ"):
            meter.read()


def test_without_the_package_the_command_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", absent)
    with pytest.raises(MeterError, match="needs the Python package nvidia-ml-py.*type: pip3 install nvidia-ml-py"):
        NvmlMeter().open()
