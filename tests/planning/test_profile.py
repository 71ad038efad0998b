import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import ReportError
from bottlekit.planning.profile import bundles_from_profile

PROFILE = json.loads((Path(__file__).parents[1] / "data" / "profile.json").read_text(encoding="utf-8"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The profile with one value replaced (or, for `...`, removed); `path` like bundles.0.phases.head."""
    profile = copy.deepcopy(PROFILE)
    *way, last = path.split(".")
    place: Any = profile
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return profile


def test_bundles_come_in_the_order_of_their_split_points() -> None:
    # Names come in another order than split points: net-rb10 before net-rb4.
    profile = changed(
        "bundles.2.bundle", {**PROFILE["bundles"][2]["bundle"], "name": "net-rb10", "split_index": 10}
    )
    profile["bundles"].reverse()
    assert [bundle.name for bundle in bundles_from_profile(profile)] == ["net-rb1", "net-rb4", "net-rb10"]


def test_values_arrive_where_they_belong() -> None:
    bundle = bundles_from_profile(PROFILE)[1]
    assert (bundle.name, bundle.split, bundle.split_index) == ("net-rb4", "rb4", 4)
    assert (bundle.accuracy, bundle.baseline_accuracy, bundle.input_jpeg_accuracy) == (0.972, 0.98, 0.975)
    assert (bundle.payload_bytes, bundle.framing_bytes, bundle.input_jpeg_bytes) == (500.0, None, 2000.0)
    assert {name: phase.ms for name, phase in bundle.phases.items()} == {
        "head": 4.0,
        "encode": 0.25,
        "decode": 0.25,
        "tail": 4.0,
        "full": 8.0,
        "baseline": 8.0,
    }


@pytest.mark.parametrize("part", ["accuracy", "input_jpeg_bytes", "framed_bytes", "phases.full", "phases.baseline"])
@pytest.mark.parametrize("value", [None, ...])
def test_what_may_be_missing_may_be_missing(part: str, value: Any) -> None:
    assert len(bundles_from_profile(changed(f"bundles.0.{part}", value))) == 3


@pytest.mark.parametrize(
    "part", ["bundle", "payload_bytes", "phases", "phases.head", "phases.encode", "phases.decode", "phases.tail"]
)
@pytest.mark.parametrize("value", [..., None, [], 7, "text"])
def test_what_must_be_there_is_missed_by_name(part: str, value: Any) -> None:
    with pytest.raises(ReportError) as caught:
        bundles_from_profile(changed(f"bundles.0.{part}", value), "p.json")
    assert "p.json, bundle 1" in str(caught.value)
    assert part.split(".")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("bundles.1.phases.head.summary.p50_ms", [None, 0.0, -1.0, math.nan, math.inf, "fast", True, [1.0]]),
        ("bundles.1.phases.head.origin", [None, "", "guessed", 3]),
        ("bundles.1.payload_bytes.mean", [None, 0, -5, math.nan, "316"]),
        ("bundles.1.accuracy.split", [-0.1, 1.1, 97.4, math.nan, "high"]),
        ("bundles.1.input_jpeg_bytes.mean", [None, 0, math.inf]),
        ("bundles.1.framed_bytes", [{}, {"overhead": -1.0}, {"overhead": None}, 64]),
        ("bundles.1.bundle.name", [None, "", 5]),
        ("bundles.1.bundle.split_index", [None, -1, "four", math.nan]),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(path: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ReportError) as caught:
            bundles_from_profile(changed(path, value), "p.json")
        assert str(caught.value).startswith("p.json, bundle 2")
        assert path.split(".")[-1] in str(caught.value) or path.split(".")[-2] in str(caught.value)


@pytest.mark.parametrize("format_", [None, "bottlekit-plan", 7])
def test_other_documents_are_refused(format_: Any) -> None:
    with pytest.raises(ReportError, match=r"p\.json is no profile: its format is .* `bottlekit bench` writes one"):
        bundles_from_profile(changed("format", format_), "p.json")


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_other_versions_are_refused(version: Any) -> None:
    with pytest.raises(ReportError, match=r"reads version 1: run `bottlekit bench` again"):
        bundles_from_profile(changed("version", version), "p.json")


@pytest.mark.parametrize("bundles", [None, [], {}, "all"])
def test_a_profile_without_bundles_is_refused(bundles: Any) -> None:
    with pytest.raises(ReportError, match="without bundles"):
        bundles_from_profile(changed("bundles", bundles))


def test_two_bundles_of_one_name_are_refused() -> None:
    with pytest.raises(ReportError, match="more than one bundle called net-rb1"):
        bundles_from_profile({**PROFILE, "bundles": [PROFILE["bundles"][0]] * 2})
