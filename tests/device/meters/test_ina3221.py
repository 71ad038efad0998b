import json
import shutil
import sys
from pathlib import Path

import pytest

from bottlekit.device.errors import MeterError, ReadingError, UnknownNameError
from bottlekit.device.meters import sysfs
from bottlekit.device.meters.ina3221 import Ina3221Meter

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import TX2_RAILS, hwmon_ina3221, tx2_iio, write

MODULE = ("VDD_IN", "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR")


@pytest.fixture
def tx2(tmp_path):
    return tx2_iio(tmp_path)


def test_a_tx2_is_measured_at_the_modules_input_first(tmp_path, tx2):
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.rails == MODULE
        assert meter.boundary == "module (VDD_IN)"
        assert meter.kind == "power"
        # mV * mA / 1000, as the driver truncates it.
        assert meter.read() == (4119.0, 762.0, 915.0, 38.0, 457.0, 993.0)
        write(tx2["0-0041"] / "in_power0_input", 7800)
        assert meter.read()[0] == 7800.0


def test_its_facts_name_the_driver_the_shunts_and_the_carriers_rails(tmp_path, tx2):
    with Ina3221Meter(str(tmp_path)) as meter:
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["driver"] == "ina3221x (IIO)"
    assert facts["paths"][0] == str(tx2["0-0041"] / "in_power0_input")
    assert facts["shunts_uohm"][:2] == [5000.0, 10000.0]
    # 40 uV over 5 mOhm are 8 mA, at 19.072 V.
    assert facts["quantum_mw"] == pytest.approx(152.576)
    assert "0-0041/running_mode=0" in facts["driver_settings"]
    assert facts["other_rails"] == sorted(
        name for (chip, _), rails in TX2_RAILS.items() if chip > "0-0041" for name, _, _ in rails
    )


def test_rails_are_found_by_name_wherever_they_are(tmp_path):
    chips = list(TX2_RAILS)
    shuffled = dict(zip(reversed(chips[:2]), (TX2_RAILS[chip][::-1] for chip in chips[:2])))
    tx2_iio(tmp_path, shuffled)
    with Ina3221Meter(str(tmp_path), rails=["VDD_4V0_WIFI", "VDD_IN"]) as meter:
        assert meter.rails == ("VDD_4V0_WIFI", "VDD_IN")
        assert meter.read() == (38.0, 4119.0)
        assert meter.boundary == "the rail VDD_4V0_WIFI alone, not the whole module"


def test_the_carriers_rails_can_be_asked_for(tmp_path, tx2):
    with Ina3221Meter(str(tmp_path), rails=["VDD_MUX"]) as meter:
        assert meter.read() == (4733.0,)


def test_a_rail_that_does_not_exist_is_answered_with_those_that_do(tmp_path, tx2):
    with pytest.raises(UnknownNameError, match="rail 'VDD_CPU' does not exist; there are: VDD_1V8_IO, VDD_3V3_IO"):
        Ina3221Meter(str(tmp_path), rails=["VDD_CPU"]).open()


def test_without_the_power_file_power_is_voltage_times_current(tmp_path, tx2):
    for path in tx2["0-0041"].glob("in_power*"):
        path.unlink()
    with Ina3221Meter(str(tmp_path), rails=["VDD_IN"]) as meter:
        assert meter.read() == (19072 * 216 / 1000,)


def test_old_kernels_call_the_device_otherwise(tmp_path):
    tx2_iio(tmp_path, {("0-0041", "iio_device"): [("VDD_IN", 19072, 216)]})
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.read() == (4119.0,)


def test_a_board_of_jetpack_5_is_read_through_hwmon(tmp_path):
    folder = hwmon_ina3221(
        tmp_path, "1-0040", 2, [("VDD_CPU_GPU_CV", 4984, 96), ("VDD_IN", 5000, 904), ("VDD_SOC", 4976, 248)]
    )
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
        assert meter.read() == (4520.0, 4984 * 96 / 1000, 4976 * 248 / 1000)
        facts = meter.facts()
    assert facts["driver"] == "ina3221 (hwmon)"
    assert facts["shunts_uohm"] == [5000.0] * 3
    assert facts["quantum_mw"] == pytest.approx(40.0)
    assert facts["paths"][0] == str(folder / "curr2_input")
    assert facts["driver_settings"] == ["1-0040/update_interval=1", "1-0040/samples=4"]


def test_channels_that_are_not_connected_or_turned_off_are_left_out(tmp_path):
    folder = hwmon_ina3221(tmp_path, "1-0040", 2, [("VDD_IN", 5000, 900), ("NC", 5000, 1), ("VDD_SOC", 5000, 2)])
    hwmon_ina3221(tmp_path, "1-0041", 3, [None, ("VDDQ", 5000, 3), None])
    write(folder / "in3_enable", 0)
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.rails == ("VDD_IN", "VDDQ")


def test_a_board_without_a_rail_for_the_module_says_so(tmp_path):
    hwmon_ina3221(tmp_path, "1-0040", 2, [("VDD_GPU_SOC", 19000, 100), ("VDD_CPU_CV", 19000, 50), None])
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.boundary == "the rail VDD_GPU_SOC alone, not the whole module"


def test_a_machine_without_the_chip_is_told_where_it_was_looked_for(tmp_path):
    with pytest.raises(
        MeterError, match=r"finds no rails in .*/sys/bus/i2c/drivers \(ina3221x, ina3221\); only Jetsons"
    ):
        Ina3221Meter(str(tmp_path)).open()


def test_without_the_shunts_nothing_is_said_of_the_step(tmp_path, tx2):
    shutil.rmtree(str(tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0041/of_node"))
    with Ina3221Meter(str(tmp_path)) as meter:
        assert meter.quantum is None
        assert meter.facts()["shunts_uohm"][0] is None


def test_a_sensor_that_vanishes_during_the_measurement(tmp_path, tx2):
    with Ina3221Meter(str(tmp_path)) as meter:
        meter.read()
        shutil.rmtree(str(tx2["0-0041"]))
        with pytest.raises(ReadingError, match=r"stopped during the measurement: .*in_power0_input No such file"):
            meter.read()


def test_a_file_that_became_a_folder_is_one_line_too(tmp_path, tx2):
    path = tx2["0-0041"] / "in_power0_input"
    with Ina3221Meter(str(tmp_path)) as meter:
        path.unlink()
        path.mkdir()
        with pytest.raises(ReadingError, match="in_power0_input Is a directory"):
            meter.read()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds '', not a number"),
        ("garbage " * 10, "holds 'garbage garbage garbage garbage garbage ', not a number"),
        ("-12", "VDD_IN reads -12 mW, which cannot be"),
        ("nan", "VDD_IN reads nan mW"),
    ],
)
def test_readings_that_cannot_be_are_refused(tmp_path, tx2, content, complaint):
    write(tx2["0-0041"] / "in_power0_input", content)
    with Ina3221Meter(str(tmp_path)) as meter, pytest.raises(ReadingError) as caught:
        meter.read()
    assert complaint in str(caught.value)


def test_no_permission_names_the_command(tmp_path, tx2, monkeypatch):
    def refused(path, *arguments, **options):
        if "rail_name" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments, **options)

    monkeypatch.setattr(sysfs, "open", refused, raising=False)
    with pytest.raises(MeterError) as caught:
        Ina3221Meter(str(tmp_path)).open()
    name = str(tx2["0-0040"] / "rail_name_0")
    assert str(caught.value) == (
        "the meter ina3221 cannot be used: {0} Permission denied; type: sudo chmod a+r {0} (until the next boot), "
        "or run it as root".format(name)
    )


def test_a_root_with_odd_characters_is_no_pattern(tmp_path):
    root = tmp_path / "a[b]*"
    tx2_iio(root)
    with Ina3221Meter(str(root)) as meter:
        assert meter.rails == MODULE
