import json
import math

import numpy as np
import pytest

from bottlekit.device.errors import BundleError
from bottlekit.device.power_trace import PowerTrace


def trace(kind="power"):
    return PowerTrace(
        times_s=np.array([10.0, 10.1, 10.1 + 0.1]),
        values=np.array([[4000.0, 4123.456789012345, 4000.0], [0.0, 1 / 3, 7.0]]),
        rails=("VDD_IN", "VDD_4V0_WIFI"),
        kind=kind,
        refresh_s=0.00084,
        meter={"name": "ina3221", "boundary": "module (VDD_IN)"},
    )


def written(**changes):
    return dict(json.loads(json.dumps(trace().to_dict(), allow_nan=False)), **changes)


@pytest.mark.parametrize("kind", ["power", "energy"])
def test_json_brings_every_bit_back(kind):
    before = trace(kind)
    after = PowerTrace.from_dict(json.loads(json.dumps(before.to_dict(), allow_nan=False)))
    assert np.array_equal(after.times_s, before.times_s)
    assert np.array_equal(after.values, before.values)
    assert after.values.dtype == after.times_s.dtype == np.float64
    assert after[2:] == before[2:]


def test_a_trace_without_readings_keeps_its_rails():
    empty = PowerTrace.from_dict(written(times_s=[], values=[[], []]))
    assert empty.values.shape == (2, 0)
    assert empty.times_s.shape == (0,)


def test_the_order_of_times_is_kept_for_others_to_judge():
    assert PowerTrace.from_dict(written(times_s=[1, -5.5, 3])).times_s.tolist() == [1.0, -5.5, 3.0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "current"}, "run.json: kind must be power or energy, not 'current'"),
        ({"rails": []}, "run.json: rails must be a list of different names, at least one, not []"),
        ({"rails": ["A", "A"]}, "rails must be a list of different names"),
        ({"rails": "AB"}, "rails must be a list of strings"),
        ({"times_s": 3}, "times_s must be a list of numbers, not 3"),
        ({"times_s": [1, 2, "3"]}, "times_s must be a list of 3 numbers"),
        ({"times_s": [1, 2, math.nan]}, "times_s must be a list of 3 numbers"),
        ({"values": [[1, 2, 3]]}, "values must be a list of 2 lists, one for each rail"),
        ({"values": {"VDD_IN": [1, 2, 3]}}, "values must be a list of 2 lists"),
        ({"values": [[1, 2, 3], [1, 2]]}, "values.VDD_4V0_WIFI must be a list of 3 numbers"),
        ({"values": [[1, -2, 3], [1, 2, 3]]}, "values.VDD_IN must be a list of 3 numbers from 0"),
        ({"values": [[1, 2, 3], [1, 2, math.inf]]}, "values.VDD_4V0_WIFI must be"),
        ({"refresh_s": -1}, "refresh_s must be a number from 0"),
        ({"refresh_s": None}, "refresh_s must be a number"),
        ({"meter": []}, "meter must be an object, not []"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_damaged_traces_are_refused_with_the_field_that_is_wrong(changes, complaint):
    with pytest.raises(BundleError) as caught:
        PowerTrace.from_dict(written(**changes), "run.json")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(trace().to_dict()))
def test_every_field_is_needed(name):
    values = written()
    del values[name]
    with pytest.raises(BundleError, match="lacks " + name):
        PowerTrace.from_dict(values)
