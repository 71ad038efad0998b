import json
import sys
from pathlib import Path

import pytest

from bottlekit.device.errors import MeterError, ReadingError
from bottlekit.device.meters import sysfs
from bottlekit.device.meters.rapl import RaplMeter

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import rapl, write


def test_energy_is_counted_from_the_opening(tmp_path):
    (folder,) = rapl(tmp_path, [5000000])
    with RaplMeter(str(tmp_path)) as meter:
        assert meter.kind == "energy"
        assert meter.rails == ("package-0",)
        assert meter.boundary == "CPU package"
        assert meter.read() == (0.0,)
        write(folder / "energy_uj", 5061035)
        assert meter.read() == (61.035,)
        assert meter.read() == (61.035,)
    with meter:
        assert meter.read() == (0.0,)


def test_the_counter_may_begin_again_many_times(tmp_path):
    (folder,) = rapl(tmp_path, [900], range_uj=1000)
    total_uj = 900
    with RaplMeter(str(tmp_path)) as meter:
        for step_uj in [50, 50, 1, 999, 500, 500, 0, 700, 700, 700]:
            total_uj += step_uj
            write(folder / "energy_uj", total_uj % 1000)
            assert meter.read()[0] == pytest.approx((total_uj - 900) / 1e3, abs=1e-12)
    assert total_uj // 1000 == 5


def test_several_packages_are_summed_and_kept(tmp_path):
    first, second = rapl(tmp_path, [1000, 2000])
    with RaplMeter(str(tmp_path)) as meter:
        assert meter.rails == ("packages", "package-0", "package-1")
        assert meter.boundary == "2 CPU packages"
        write(first / "energy_uj", 4000)
        write(second / "energy_uj", 2500)
        assert meter.read() == (3.5, 3.0, 0.5)


def test_facts(tmp_path):
    (folder,) = rapl(tmp_path)
    with RaplMeter(str(tmp_path)) as meter:
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["paths"] == [str(folder / "energy_uj")]
    assert facts["counter_ranges_mj"] == [262143328.850]
    assert facts["quantum_mj"] is None


def test_a_machine_without_counters(tmp_path):
    with pytest.raises(
        MeterError, match="finds no processor package in .*powercap: virtual machines and ARM have none"
    ):
        RaplMeter(str(tmp_path)).open()


def test_no_permission_names_the_command(tmp_path, monkeypatch):
    (folder,) = rapl(tmp_path)

    def refused(path, *arguments, **options):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *arguments, **options)

    monkeypatch.setattr(sysfs, "open", refused, raising=False)
    with pytest.raises(MeterError) as caught:
        RaplMeter(str(tmp_path)).open()
    assert "Permission denied; type: sudo chmod a+r {} (until".format(folder / "energy_uj") in str(caught.value)


def test_a_counter_that_vanishes(tmp_path):
    (folder,) = rapl(tmp_path)
    with RaplMeter(str(tmp_path)) as meter:
        (folder / "energy_uj").unlink()
        with pytest.raises(ReadingError, match="the meter rapl stopped during the measurement"):
            meter.read()


def test_a_counter_beyond_its_range_is_refused(tmp_path):
    (folder,) = rapl(tmp_path, [5000], range_uj=1000)
    with RaplMeter(str(tmp_path)) as meter:
        write(folder / "energy_uj", 100)
        with pytest.raises(ReadingError, match="package-0 reads -3.9 mJ, which cannot be"):
            meter.read()
