"""The device's small planner and the planner itself: one formula, one order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.adaptive.options import MOBILE_ONLY, Option, options_from_profile, predicted, ranked
from bottlekit.device.bundle import Bundle
from bottlekit.planning.candidates import Candidate, candidates_from_profile
from bottlekit.planning.links import LINKS
from bottlekit.planning.selection import rank
from bottlekit.specs import LinkSpec

PROFILE = Path(__file__).parents[1] / "data" / "profile.json"

times_ms = st.floats(0.01, 1000.0)


class Named:
    """As much of a bundle as options are made from."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.name = entry["bundle"]["name"]
        self.sha256 = entry["bundle"]["sha256"]
        self.split = {"name": entry["bundle"]["split"], "index": entry["bundle"]["split_index"]}
        self.parts = ("head", "tail", "full", "baseline")


def link_of(rate_mbps: float, rtt_ms: float) -> LinkSpec:
    return LinkSpec("any", rate_mbps, rate_mbps, 100.0, 100.0, 100.0, rtt_ms=rtt_ms)


def as_candidate(option: Option) -> Candidate:
    """The same numbers, as the planner takes them."""
    return Candidate(
        setup="collaborative" if option.is_remote else "mobile-only",
        split=option.name if option.is_remote else None,
        split_index=option.split_index,
        bundle=option.bundle if option.is_remote else None,
        network="split" if option.is_remote else "baseline",
        accuracy=None,
        payload_bytes=option.offloaded_bytes,
        offloaded_bytes=option.offloaded_bytes,
        device_ms=option.device_ms,
        server_ms=option.server_ms,
    )


def agree(options: list[Option], candidates: list[Candidate], link: LinkSpec, device: float, server: float) -> None:
    """The same order, and the same terms for each; only of equal latencies either may be first."""
    ours = ranked(predicted(one, link.rtt_ms, 8e-3 / link.uplink_mbps, device, server) for one in options)
    theirs = rank(candidates, link, device_load=device, server_load=server)
    by_label = {choice.candidate.split or MOBILE_ONLY: choice for choice in theirs}
    assert len(ours) == len(theirs) == len(by_label)
    for one, choice in zip(ours, theirs, strict=True):
        same = by_label[one.option.name]
        for term in set(one.terms_ms) | set(same.terms_ms):
            assert one.terms_ms.get(term, 0.0) == pytest.approx(same.terms_ms.get(term, 0.0), rel=1e-9)
        assert one.latency_ms == pytest.approx(choice.latency_ms, rel=1e-9)
        if one.option.name != (choice.candidate.split or MOBILE_ONLY):
            assert one.latency_ms == pytest.approx(same.latency_ms, rel=1e-9)


@given(
    remote=st.lists(st.tuples(times_ms, times_ms, st.floats(1.0, 1e6)), max_size=16),
    whole_ms=times_ms,
    rate_mbps=st.floats(0.01, 1000.0),
    rtt_ms=st.one_of(st.just(0.0), st.floats(0.1, 500.0)),
    device=st.floats(0.1, 50.0),
    server=st.floats(0.1, 50.0),
)
def test_the_order_and_the_terms_are_the_planners(
    remote: list[tuple[float, float, float]],
    whole_ms: float,
    rate_mbps: float,
    rtt_ms: float,
    device: float,
    server: float,
) -> None:
    options = [
        Option(f"rb{index}", f"net-rb{index}", "head", index, head, tail, size)
        for index, (head, tail, size) in enumerate(remote, 1)
    ]
    options.append(Option(MOBILE_ONLY, "net-rb1", "baseline", 0, whole_ms, None, 0.0))
    agree(options, [as_candidate(option) for option in options], link_of(rate_mbps, rtt_ms), device, server)


def test_equal_latencies_are_decided_as_the_planner_decides_them() -> None:
    whole = Option(MOBILE_ONLY, "net-rb1", "baseline", 0, 4.0, None, 0.0)
    # Two splits that cost the same in time and in energy, and the whole network in the same time.
    options = [
        whole,
        *(Option(f"rb{index}", f"net-rb{index}", "head", index, 2.0, 1.0, 1000.0) for index in (3, 2)),
    ]
    link = link_of(8.0, 0.0)
    ours = ranked(predicted(option, 0.0, 1e-3) for option in options)
    theirs = rank([as_candidate(option) for option in options], link)
    assert [one.option.name for one in ours][:2] == [choice.candidate.split for choice in theirs][:2]


@pytest.mark.parametrize("link", ["3g", "4g", "wifi"])
@pytest.mark.parametrize("framing", [None, 23.0])
def test_a_profile_gives_both_the_same_candidates(link: str, framing: float | None) -> None:
    profile = json.loads(PROFILE.read_text())
    for entry in profile["bundles"]:
        entry["framed_bytes"] = None if framing is None else {"request": 1.0, "overhead": framing}
    server = json.loads(json.dumps(profile))
    for entry in server["bundles"]:
        entry["phases"]["tail"]["summary"]["p50_ms"] *= 0.1
    bundles: list[Bundle] = [Named(entry) for entry in profile["bundles"]]  # type: ignore[misc]
    for server_profile in (None, server):
        options = options_from_profile(profile, bundles, server_profile)
        candidates = [one for one in candidates_from_profile(profile, server_profile) if one.setup != "cloud-only"]
        agree(options, candidates, LINKS[link], 1.0, 1.0)
