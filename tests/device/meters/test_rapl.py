import json
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

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


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree that hypothesis fills again and again, and its package's folder."""
    root = tmp_path_factory.mktemp("rapl")
    return str(root), rapl(root)[0]


@settings(max_examples=15)
@given(
    range_uj=st.integers(2, 10**12),
    parts=st.lists(st.floats(0.0, 0.999), min_size=1, max_size=10),
    begin=st.floats(0.0, 0.999),
)
def test_the_counter_may_begin_again_many_times(tree, range_uj, parts, begin):
    root, folder = tree
    begin_uj = int(begin * range_uj)
    write(folder / "max_energy_range_uj", range_uj)
    write(folder / "energy_uj", begin_uj)
    total_uj = 0
    with RaplMeter(root) as meter:
        for part in parts:
            # Less than a whole range at a time: more cannot be seen.
            total_uj += int(part * range_uj)
            write(folder / "energy_uj", (begin_uj + total_uj) % range_uj)
            assert meter.read() == (total_uj / 1e3,)


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
