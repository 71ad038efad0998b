"""The tables of the pipe, from a made-up profile and the planner's own plans for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bottlekit.errors import ReportError
from bottlekit.report.render import values_from_table
from bottlekit.report.setups import (
    chosen_sentence,
    ordered_candidates,
    phases_table,
    plan_table,
    setups_table,
    term_names,
)
from bottlekit.report.table import combined_origin

Profile = dict[str, Any]
Plans = dict[str, dict[str, Any]]


def candidate_of(plan: dict[str, Any], setup: str, split: str | None = None) -> dict[str, Any]:
    return next(c for c in plan["ranking"] if (c["setup"], c["split"]) == (setup, split))


def test_rows_are_the_three_setups_from_input_to_output(profile: Profile, plans: Plans) -> None:
    names = [row["setup"] for row in values_from_table(setups_table(profile, plans))]
    assert names == ["mobile-only", "cloud-only (JPEG input)", "collaborative at rb1", "collaborative at rb2"]


def test_the_order_does_not_depend_on_the_ranking(profile: Profile, plans: Plans) -> None:
    backwards = copy.deepcopy(plans)
    for plan in backwards.values():
        plan["ranking"].reverse()
    assert setups_table(profile, backwards) == setups_table(profile, plans)


def test_every_figure_is_the_plans(profile: Profile, plans: Plans) -> None:
    row = values_from_table(setups_table(profile, plans))[2]
    for link, plan in plans.items():
        candidate = candidate_of(plan, "collaborative", "rb1")
        for name, key in (("latency_ms", f"latency_{link}_ms"), ("energy_mj", f"energy_{link}_mj")):
            assert row[key] == {"value": candidate[name], "origin": candidate["origins"][name]}
    assert row["accuracy"] == {"value": profile["bundles"][0]["accuracy"]["split"], "origin": "measured"}
    assert row["payload_bytes"]["value"] == profile["bundles"][0]["payload_bytes"]["mean"]
    assert row["framed_bytes"]["value"] == profile["bundles"][0]["framed_bytes"]["request"]


def test_mobile_only_sends_nothing(profile: Profile, plans: Plans) -> None:
    row = values_from_table(setups_table(profile, plans))[0]
    assert row["payload_bytes"]["value"] == row["framed_bytes"]["value"] == 0


def test_framed_bytes_are_empty_where_nobody_measured_them(profile: Profile) -> None:
    from bottlekit.planning import link_from_name, plan_from_profile

    for entry in profile["bundles"]:
        entry["framed_bytes"] = None
    rows = values_from_table(setups_table(profile, {"3g": plan_from_profile(profile, link_from_name("3g"))}))
    assert [row["framed_bytes"] for row in rows[1:]] == [None, None, None]


def test_what_was_observed_replaces_the_profile(profile: Profile, plans: Plans) -> None:
    key = ("collaborative", "rb2")
    observed = {key: {"accuracy": 0.9, "payload_bytes": 7, "framed_bytes": 8, "loopback_ms": 9.5}}
    rows = values_from_table(setups_table(profile, plans, observed))
    for name, value in (("accuracy", 0.9), ("payload_bytes", 7), ("framed_bytes", 8), ("loopback_ms", 9.5)):
        assert rows[3][name] == {"value": value, "origin": "measured"}
    assert rows[2]["loopback_ms"] is None
    assert "loopback: median" in setups_table(profile, plans, observed).note
    assert "loopback" not in setups_table(profile, plans).note
    assert "loopback_ms" not in values_from_table(setups_table(profile, plans))[0]


def test_the_lowest_latency_and_energy_of_each_network_are_marked(profile: Profile, plans: Plans) -> None:
    table = setups_table(profile, plans)
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        if column.unit in ("ms", "mJ"):
            lowest = min(cell.value for cell in cells if isinstance(cell.value, float))
            assert [cell.best for cell in cells] == [cell.value == lowest for cell in cells]
        else:
            assert not any(cell.best for cell in cells)


def test_the_note_says_what_accuracy_was_measured_on(profile: Profile, plans: Plans) -> None:
    assert setups_table(profile, plans).note.startswith("accuracy on 360 held-out images of digits;")
    observed = {("mobile-only", ""): {"accuracy": 1.0, "images": 60}}
    assert setups_table(profile, plans, observed).note.startswith("accuracy on 60 held-out images of digits;")
    for entry in profile["bundles"]:
        entry["accuracy"] = None
    assert setups_table(profile, plans).note.startswith("accuracy: nobody measured one;")


def test_no_plan_no_table(profile: Profile) -> None:
    with pytest.raises(ReportError, match="a plan for at least one network"):
        setups_table(profile, {})


def test_plans_of_different_profiles_are_refused(profile: Profile, plans: Plans) -> None:
    plans["4g"]["ranking"].pop()
    with pytest.raises(ReportError, match="the plan for 4g ranks other candidates"):
        setups_table(profile, plans)


def test_a_number_without_an_origin_is_refused(profile: Profile, plans: Plans) -> None:
    del plans["wifi"]["ranking"][0]["origins"]["energy_mj"]
    with pytest.raises(ReportError, match="does not say where energy_mj of"):
        setups_table(profile, plans)
    del plans["3g"]["ranking"][0]["origins"]["device_ms"]
    with pytest.raises(ReportError, match="does not say where device_ms of"):
        plan_table(plans["3g"])


def test_an_unknown_setup_is_refused(profile: Profile, plans: Plans) -> None:
    plans["3g"]["ranking"][0]["setup"] = "fog-only"
    with pytest.raises(ReportError, match="'fog-only'; there are: mobile-only, cloud-only, collaborative"):
        ordered_candidates(profile, plans["3g"])


def test_a_plan_shows_its_terms_and_they_add_up(plans: Plans) -> None:
    for plan in plans.values():
        rows = values_from_table(plan_table(plan))
        assert len(rows) == len(plan["ranking"])
        for unit, total in (("ms", "latency_ms"), ("mj", "energy_mj")):
            names = term_names(plan, f"terms_{unit}")
            for row in rows:
                terms = [row[f"{name}_{unit}"] for name in names if row[f"{name}_{unit}"] is not None]
                assert sum(term["value"] for term in terms) == pytest.approx(row[total]["value"])
                assert combined_origin(term["origin"] for term in terms) == row[total]["origin"]


def test_terms_stand_in_the_order_of_an_inference(plans: Plans) -> None:
    assert term_names(plans["3g"], "terms_ms") == ["device", "uplink", "server"]
    plans["3g"]["ranking"][0]["terms_ms"]["queue"] = 1.0
    assert term_names(plans["3g"], "terms_ms") == ["device", "uplink", "server", "queue"]


def test_the_chosen_one_is_the_first(plans: Plans) -> None:
    plan = plans["3g"]
    plan["ranking"] = [candidate_of(plan, "collaborative", "rb1")]
    plan["ranking"][0].update(latency_ms=8.123, energy_mj=12.34)
    assert chosen_sentence(plan) == (
        "collaborative at rb1: 8.12 ms (measured+modelled), 12.3 mJ (measured+modelled)"
    )


def test_phases_without_enough_samples_for_a_percentile_leave_it_empty(profile: Profile) -> None:
    rows = values_from_table(phases_table(profile))
    assert len(rows) == sum(len(entry["phases"]) for entry in profile["bundles"])
    summary = profile["bundles"][0]["phases"]["head"]["summary"]
    assert rows[0]["p50_ms"] == {"value": summary["p50_ms"], "origin": "measured"}
    assert rows[0]["p99_ms"] is None
    assert (rows[0]["phase"], rows[0]["samples"]) == ("head", "200")
