import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import ReportError, UsageError
from bottlekit.planning.candidates import Candidate, candidates_from_profile, joined_origin

PROFILE = json.loads((Path(__file__).parents[1] / "data" / "profile.json").read_text(encoding="utf-8"))


def scaled(factor: float) -> dict[str, Any]:
    """The profile of a machine on which everything takes `factor` times as long."""
    profile = copy.deepcopy(PROFILE)
    for entry in profile["bundles"]:
        for phase in entry["phases"].values():
            phase["summary"]["p50_ms"] *= factor
    return profile


def without(*names: str) -> dict[str, Any]:
    """The profile without these phases, or without the size of the JPEG input."""
    profile = copy.deepcopy(PROFILE)
    for entry in profile["bundles"]:
        for name in names:
            (entry if name == "input_jpeg_bytes" else entry["phases"]).pop(name)
    return profile


def by_label(profile: dict[str, Any], server: dict[str, Any] | None = None) -> dict[str, Candidate]:
    return {candidate.label: candidate for candidate in candidates_from_profile(profile, server)}


def test_device_runs_head_and_encode_and_server_decode_and_tail() -> None:
    candidate = by_label(PROFILE)["net-rb4"]
    assert (candidate.device_ms, candidate.server_ms) == (4.25, 4.25)
    assert (candidate.setup, candidate.split, candidate.network) == ("collaborative", "rb4", "split")
    assert (candidate.payload_bytes, candidate.offloaded_bytes, candidate.accuracy) == (500.0, 500.0, 0.972)


def test_mobile_only_and_cloud_only_run_the_uncompressed_network() -> None:
    candidates = by_label(PROFILE)
    mobile, cloud = candidates["mobile-only"], candidates["cloud-only"]
    assert (mobile.device_ms, mobile.server_ms, mobile.offloaded_bytes, mobile.accuracy) == (8.0, None, 0.0, 0.98)
    assert (cloud.device_ms, cloud.server_ms, cloud.offloaded_bytes, cloud.accuracy) == (None, 8.0, 2000.0, 0.975)


def test_framing_counts_for_whatever_is_sent() -> None:
    profile = copy.deepcopy(PROFILE)
    for entry in profile["bundles"]:
        entry["framed_bytes"] = {"request": 1064.0, "overhead": 64.0}
    candidates = by_label(profile)
    assert candidates["net-rb1"].offloaded_bytes == candidates["net-rb1"].payload_bytes + 64.0 == 1064.0
    assert candidates["cloud-only"].offloaded_bytes == 2064.0
    assert candidates["mobile-only"].offloaded_bytes == 0.0


def test_server_times_come_from_the_servers_profile() -> None:
    alone, apart = by_label(PROFILE), by_label(PROFILE, scaled(1 / 32))
    for label, candidate in apart.items():
        assert candidate.device_ms == alone[label].device_ms
        assert candidate.server_ms == (None if label == "mobile-only" else (alone[label].server_ms or 0.0) / 32)


def test_without_a_baseline_the_bottlenecked_network_runs_on_the_device_and_its_accuracy_is_unknown() -> None:
    candidates = by_label(without("baseline"))
    assert "cloud-only" not in candidates
    mobile = candidates["mobile-only"]
    assert (mobile.network, mobile.accuracy, mobile.device_ms) == ("full", None, 8.0)


def test_without_a_whole_network_only_the_splits_are_left() -> None:
    assert list(by_label(without("baseline", "full"))) == ["net-rb1", "net-rb4", "net-rb8"]


def test_without_the_size_of_the_input_there_is_no_cloud_only() -> None:
    assert list(by_label(without("input_jpeg_bytes"))) == ["net-rb1", "net-rb4", "net-rb8", "mobile-only"]


def test_a_server_that_lacks_a_bundle_is_refused() -> None:
    server = {**PROFILE, "bundles": PROFILE["bundles"][:2]}
    with pytest.raises(
        ReportError, match=r"s\.json does not have the bundle net-rb8 of d\.json; it has: net-rb1, net-rb4"
    ):
        candidates_from_profile(PROFILE, server, "d.json", "s.json")


def test_a_server_with_another_export_of_the_same_name_is_refused() -> None:
    server = copy.deepcopy(PROFILE)
    server["bundles"][0]["bundle"]["sha256"] = "f" * 64
    with pytest.raises(ReportError, match="two different bundles called net-rb1"):
        candidates_from_profile(PROFILE, server)


def test_a_broken_server_profile_is_named() -> None:
    with pytest.raises(ReportError, match=r"^s\.json is no profile"):
        candidates_from_profile(PROFILE, {}, "d.json", "s.json")


@pytest.mark.parametrize("field", ["device_ms", "server_ms", "payload_bytes", "offloaded_bytes", "device_power_mw"])
@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_impossible_candidates_are_refused_at_birth(field: str, bad: float) -> None:
    values: dict[str, Any] = {
        "setup": "collaborative",
        "split": "rb1",
        "split_index": 1,
        "bundle": "net-rb1",
        "network": "split",
        "accuracy": None,
        "payload_bytes": 1.0,
        "offloaded_bytes": 1.0,
        "device_ms": 1.0,
        "server_ms": 1.0,
    }
    with pytest.raises(UsageError, match=f"the {field} of net-rb1"):
        Candidate(**{**values, field: bad})


def test_origins_are_joined_in_one_order_without_repetition() -> None:
    assert joined_origin(["modelled", "measured", "measured+modelled"]) == "measured+modelled"
    assert joined_origin(["emulated", "measured"]) == "measured+emulated"
    assert joined_origin(["measured", "measured"]) == "measured"
