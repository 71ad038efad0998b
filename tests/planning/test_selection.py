import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.errors import PlanError, UnknownNameError, UsageError
from bottlekit.planning import LINKS, TX2_POWER_MW, Candidate, candidates_from_profile, rank
from bottlekit.specs import LinkSpec

DATA = Path(__file__).parents[1] / "data"
PAPER = json.loads((DATA / "paper_tables.json").read_text(encoding="utf-8"))
CANDIDATES = candidates_from_profile(json.loads((DATA / "profile.json").read_text(encoding="utf-8")))
NETWORKS = sorted(LINKS)


def collaborative(
    index: int, size_bytes: float, device_ms: float, server_ms: float | None = None, **more: Any
) -> Candidate:
    return Candidate(
        setup="collaborative",
        split=f"rb{index}",
        split_index=index,
        bundle=f"net-rb{index}",
        network="split",
        accuracy=more.pop("accuracy", 0.74),
        payload_bytes=size_bytes,
        offloaded_bytes=size_bytes,
        device_ms=device_ms,
        server_ms=server_ms,
        **more,
    )


def paper_candidates(paper: str) -> list[Candidate]:
    """The 16 partitions of a paper's table. The fitted constants hold device and server time together."""
    table = PAPER[paper]
    times = table["compute_ms"]
    # BottleNet's energies are fitted apart: PM_j is what gives them in that time.
    energies = table.get("compute_mj", [None] * len(times))
    return [
        collaborative(index, size, time, device_power_mw=None if energy is None else energy / time * 1000.0)
        for index, (size, time, energy) in enumerate(
            zip(table["offloaded_bytes"], times, energies, strict=True), start=1
        )
    ]


# The papers


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_bottlenets_best_partition_is_rb1_on_every_network(network: str, objective: Any) -> None:
    assert rank(paper_candidates("bottlenet"), LINKS[network], objective)[0].candidate.split == "rb1"


@pytest.mark.parametrize(("network", "split"), [("3g", "rb8"), ("4g", "rb1"), ("wifi", "rb1")])
def test_butterflys_best_partition_depends_on_the_network(network: str, split: str) -> None:
    assert rank(paper_candidates("butterfly"), LINKS[network], "latency")[0].candidate.split == split


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("paper", ["bottlenet", "butterfly"])
def test_latencies_are_those_of_the_table(paper: str, network: str) -> None:
    choices = {
        choice.candidate.split: choice.latency_ms for choice in rank(paper_candidates(paper), LINKS[network])
    }
    printed = PAPER[paper]["latency_ms"][network]
    errors = sorted(abs(choices[f"rb{index}"] / value - 1) for index, value in enumerate(printed, start=1))
    # One constant per block cannot fit all three networks: BottleNet's RB1 on 3G is 18 % off, most are within 1 %.
    assert errors[8] < 0.04
    assert errors[-2] < 0.085
    assert errors[-1] < 0.19


@pytest.mark.parametrize("network", NETWORKS)
def test_energies_of_bottlenets_table_4_follow_with_beta(network: str) -> None:
    choices = rank(paper_candidates("bottlenet"), LINKS[network], "energy", include_beta=True)
    computed = {choice.candidate.split: choice.energy_mj for choice in choices}
    printed = PAPER["bottlenet"]["energy_mj"][network]
    errors = sorted(abs(computed[f"rb{index}"] / value - 1) for index, value in enumerate(printed, start=1))
    assert errors[8] < 0.03
    assert errors[-1] < 0.18


# Terms


def test_terms_are_those_of_algorithm_1() -> None:
    link = LinkSpec("test", 8.0, 16.0, 100.0, 50.0, 1000.0)
    (choice,) = rank([collaborative(1, 1000, 2.0, 4.0)], link, device_power_mw=5000.0)
    assert choice.terms_ms == pytest.approx({"device": 2.0, "uplink": 1.0, "server": 4.0}, rel=1e-12)
    assert choice.terms_mj == pytest.approx({"device": 10.0, "uplink": 1.8}, rel=1e-12)
    assert choice.latency_ms == pytest.approx(7.0, rel=1e-12)
    assert choice.energy_mj == pytest.approx(11.8, rel=1e-12)


def test_without_beta_only_the_radio_gets_cheaper() -> None:
    link = LinkSpec("test", 8.0, 16.0, 100.0, 50.0, 1000.0)
    (choice,) = rank([collaborative(1, 1000, 2.0, 4.0)], link, device_power_mw=5000.0, include_beta=False)
    assert choice.terms_mj == pytest.approx({"device": 10.0, "uplink": 0.8}, rel=1e-12)
    assert choice.latency_ms == pytest.approx(7.0, rel=1e-12)


def test_loads_stretch_their_own_side_and_make_it_modelled() -> None:
    (choice,) = rank([collaborative(1, 1000, 2.0, 4.0)], LINKS["4g"], device_load=3.0, server_load=2.0)
    assert (choice.terms_ms["device"], choice.terms_ms["server"]) == (6.0, 8.0)
    assert choice.terms_mj["device"] == pytest.approx(6.0 * TX2_POWER_MW / 1000, rel=1e-12)
    assert (choice.origins["device_ms"], choice.origins["server_ms"]) == ("measured+modelled", "measured+modelled")


def test_every_number_says_where_it_comes_from() -> None:
    for choice in rank(CANDIDATES, LINKS["3g"], downlink_bytes=40.0):
        for name in choice.terms_ms:
            assert choice.origins[f"{name}_ms"] in ("measured", "modelled")
        for name in choice.terms_mj:
            assert choice.origins[f"{name}_mj"] in ("modelled", "measured+modelled")
        whole = "measured" if choice.candidate.setup == "mobile-only" else "measured+modelled"
        assert choice.origins["latency_ms"] == whole


def test_a_measured_power_goes_before_the_assumed_one() -> None:
    (choice,) = rank([collaborative(1, 1000, 2.0, device_power_mw=3000.0)], LINKS["4g"], device_power_mw=1.0)
    assert choice.terms_mj["device"] == pytest.approx(6.0, rel=1e-12)
    assert choice.origins["device_mj"] == "measured"


def test_round_trip_and_downlink_count_only_when_asked_and_only_for_what_uses_the_network() -> None:
    link = dataclasses.replace(LINKS["4g"], rtt_ms=20.0)
    for choice in rank(CANDIDATES, LINKS["4g"]):
        assert not {"rtt", "downlink"} & set(choice.terms_ms)
    for choice in rank(CANDIDATES, link, downlink_bytes=1720.0):
        if choice.candidate.setup == "mobile-only":
            assert set(choice.terms_ms) == {"device"}
        else:
            assert choice.terms_ms["rtt"] == 20.0
            assert choice.terms_ms["downlink"] == pytest.approx(1.0, rel=1e-12)
            assert choice.terms_mj["downlink"] == pytest.approx((51.97 * 13.76 + 1288.04) / 1000, rel=1e-12)


def test_the_plan_document_holds_the_sums_of_its_terms() -> None:
    for choice in rank(CANDIDATES, LINKS["wifi"], "energy"):
        line = choice.to_dict()
        assert line["latency_ms"] == sum(line["terms_ms"].values())
        assert line["energy_mj"] == sum(line["terms_mj"].values())
        json.dumps(line, allow_nan=False)


# Properties


times = st.floats(0.01, 1000.0)
fleets = st.lists(st.tuples(st.floats(1, 1e6), times, times), min_size=1, max_size=16).map(
    lambda rows: [collaborative(index, *row) for index, row in enumerate(rows, start=1)]
)
links = st.sampled_from(list(LINKS.values()))
objectives = st.sampled_from(["latency", "energy"])


@given(fleets, links, objectives, st.integers(0, 1000))
def test_the_order_of_the_candidates_does_not_matter(
    fleet: list[Candidate], link: LinkSpec, objective: Any, seed: int
) -> None:
    shuffled = random.Random(seed).sample(fleet, len(fleet))
    assert rank(shuffled, link, objective) == rank(fleet, link, objective)


@given(fleets, links, objectives)
def test_the_first_is_the_best_and_nobody_is_lost(fleet: list[Candidate], link: LinkSpec, objective: Any) -> None:
    choices = rank(fleet, link, objective)
    costs = [choice.latency_ms if objective == "latency" else choice.energy_mj for choice in choices]
    assert costs == sorted(costs)
    assert sorted(choice.candidate.label for choice in choices) == sorted(item.label for item in fleet)


@given(fleets, links, st.floats(1.0, 100.0))
def test_more_bandwidth_never_makes_anything_slower(fleet: list[Candidate], link: LinkSpec, factor: float) -> None:
    faster = dataclasses.replace(link, uplink_mbps=link.uplink_mbps * factor)
    before = {choice.candidate.label: choice.latency_ms for choice in rank(fleet, link)}
    after = {choice.candidate.label: choice.latency_ms for choice in rank(fleet, faster)}
    assert all(after[label] <= before[label] for label in before)
    assert min(after.values()) <= min(before.values())


@given(fleets, links, st.floats(1.0, 100.0))
def test_more_load_never_helps_and_never_pulls_work_towards_the_loaded_side(
    fleet: list[Candidate], link: LinkSpec, load: float
) -> None:
    idle, busy = rank(fleet, link)[0], rank(fleet, link, server_load=load)[0]
    assert busy.latency_ms >= idle.latency_ms
    assert (busy.candidate.server_ms or 0.0) <= (idle.candidate.server_ms or 0.0)


@given(fleets, links, objectives, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scaling_every_time_scales_every_cost_and_keeps_the_order(
    fleet: list[Candidate], link: LinkSpec, objective: Any, factor: float
) -> None:
    slower = dataclasses.replace(link, uplink_mbps=link.uplink_mbps / factor, alpha_up_mw_per_mbps=0.0)
    link = dataclasses.replace(link, alpha_up_mw_per_mbps=0.0)
    before = rank(fleet, link, objective)
    after = rank(fleet, slower, objective, device_load=factor, server_load=factor)
    # Powers of two scale without rounding, so the order is the same to the last bit.
    assert [choice.candidate for choice in after] == [choice.candidate for choice in before]
    assert [choice.latency_ms for choice in after] == [choice.latency_ms * factor for choice in before]
    assert [choice.energy_mj for choice in after] == pytest.approx(
        [choice.energy_mj * factor for choice in before], rel=1e-9
    )


def test_equal_costs_are_ordered_by_the_other_objective_then_setup_then_split() -> None:
    same = [collaborative(3, 1000, 2.0, 2.0), collaborative(1, 1000, 2.0, 2.0), collaborative(2, 1000, 1.0, 3.0)]
    assert [choice.candidate.split for choice in rank(same, LINKS["4g"])] == ["rb2", "rb1", "rb3"]
    whole = Candidate("mobile-only", None, 0, None, "baseline", 0.7, 0.0, 0.0, 5.0, None)
    split = collaborative(1, 0, 5.0)
    assert [choice.candidate.setup for choice in rank([whole, split], LINKS["4g"])] == [
        "collaborative",
        "mobile-only",
    ]


# Bounds


def labels(**bounds: Any) -> set[str]:
    return {choice.candidate.label for choice in rank(CANDIDATES, LINKS["4g"], **bounds)}


def test_bounds_keep_exactly_what_satisfies_them() -> None:
    assert labels(accuracy_floor=0.972) == {"net-rb4", "net-rb8", "mobile-only", "cloud-only"}
    assert labels(max_bytes=500) == {"net-rb4", "net-rb8", "mobile-only"}
    assert labels(accuracy_floor=0.974, max_bytes=300) == {"net-rb8", "mobile-only"}
    assert labels(max_bytes=0) == {"mobile-only"}
    assert len(labels(accuracy_floor=0.0, max_bytes=1e9)) == 5


def test_a_floor_nobody_reaches_says_by_how_much() -> None:
    with pytest.raises(
        PlanError, match=r"--accuracy-floor 0\.99: the best is mobile-only with 0\.9800, 0\.0100 short"
    ):
        labels(accuracy_floor=0.99)


def test_a_byte_bound_nobody_keeps_says_by_how_much() -> None:
    splits = [candidate for candidate in CANDIDATES if candidate.setup == "collaborative"]
    with pytest.raises(PlanError, match="--max-bytes 200: the least is net-rb8 with 250 bytes, 50 too many"):
        rank(splits, LINKS["4g"], max_bytes=200)
    with pytest.raises(PlanError, match=r"at --accuracy-floor 0\.97: the least"):
        rank(splits, LINKS["4g"], max_bytes=200, accuracy_floor=0.97)


def test_an_unknown_accuracy_satisfies_no_floor() -> None:
    unknown = [dataclasses.replace(candidate, accuracy=None) for candidate in CANDIDATES]
    with pytest.raises(PlanError, match="cannot be checked"):
        rank(unknown, LINKS["4g"], accuracy_floor=0.0)
    mixed = [*unknown[:1], *CANDIDATES[1:]]
    assert len(rank(mixed, LINKS["4g"], accuracy_floor=0.0)) == len(CANDIDATES) - 1


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(PlanError, match="no candidate to choose from"):
        rank([], LINKS["4g"])


@pytest.mark.parametrize("option", ["device_load", "server_load", "device_power_mw"])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_factors_are_refused_by_option(option: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} must be a positive number"):
        labels(**{option: bad})


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("accuracy_floor", -0.1),
        ("accuracy_floor", 74.0),
        ("accuracy_floor", math.nan),
        ("max_bytes", -1.0),
        ("max_bytes", math.nan),
        ("downlink_bytes", -1.0),
        ("downlink_bytes", math.inf),
    ],
)
def test_impossible_bounds_are_refused_by_option(option: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} must be"):
        labels(**{option: bad})


def test_an_unknown_objective_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownNameError, match="objective 'money' does not exist; there are: latency, energy"):
        labels(objective="money")
