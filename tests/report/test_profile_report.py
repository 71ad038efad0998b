"""The report of a profile: every file, every label, and what is missing said rather than left out."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottlekit.device.power_trace import PowerTrace
from bottlekit.errors import ReportError
from bottlekit.planning import link_from_name, plan_from_profile
from bottlekit.report.blocks import blocks_of_candidate, blocks_picture, blocks_table
from bottlekit.report.drawing import Picture
from bottlekit.report.energies import energy_of_phase, energy_table
from bottlekit.report.latency_picture import latency_pictures
from bottlekit.report.power_picture import power_picture, power_pictures
from bottlekit.report.profile_report import (
    html_from_report,
    markdown_from_report,
    report_from_profile,
    write_report,
)
from bottlekit.report.profiles import phases_of_profile, profile_from_file
from bottlekit.report.render import csv_from_table

Profile = dict[str, Any]
Plans = dict[str, dict[str, Any]]

PNG = b"\x89PNG\r\n\x1a\n"


def words_of(svg: str) -> str:
    return " | ".join(part for part in ElementTree.fromstring(svg).itertext() if part.strip())


def trace(readings: int, kind: str = "power") -> PowerTrace:
    """A trace of 100 s: idle at 2 W, then 6 W from 20 s to 80 s, then idle."""
    times_s = np.linspace(500.0, 600.0, readings)
    power_mw = np.where((times_s > 520.0) & (times_s < 580.0), 6000.0, 2000.0)
    values = np.stack([power_mw, 0.4 * power_mw])
    if kind == "energy":
        values = np.cumsum(values * np.gradient(times_s), axis=1)
    return PowerTrace(times_s, values, ("VDD_IN", "VDD_SYS_GPU"), kind, 0.05, {"name": "ina3221"})


def energy(readings: int = 400, kind: str = "power", **changes: Any) -> dict[str, Any]:
    """An energy as `bench --power` writes it, of three runs between 25 s and 79 s."""
    return {
        "meter": "ina3221",
        "boundary": "VDD_IN",
        "valid": True,
        "indicative": False,
        "reasons": [],
        "energy_mj": 40.0,
        "energy_ci_mj": [39.0, 41.0],
        "net_energy_mj": 24.0,
        "net_energy_ci_mj": [23.0, 25.0],
        "confidence": 0.99,
        "repeats": [{"energy_mj": 40.0 + d, "net_energy_mj": 24.0 + d} for d in (-0.1, 0.0, 0.1)],
        "trace": trace(readings, kind).to_dict(),
        "record": {
            "idle_before_s": [501.0, 519.0],
            "idle_after_s": [582.0, 599.0],
            "warm_up": {"seconds": 5.0, "stable": True},
            "runs": [{"blocks": [[s, s + 8, 50], [s + 8, s + 16, 50]], "throttled": []} for s in (525, 543, 561)],
        },
        **changes,
    }


@pytest.fixture
def metered(profile: Profile) -> Profile:
    phases = profile["bundles"][0]["phases"]
    phases["head"]["energy"] = energy()
    phases["encode"]["energy"] = energy(
        valid=False, energy_mj=None, net_energy_mj=None, reasons=["run 2: throttled: SW thermal slowdown"]
    )
    phases["tail"]["energy"] = {"meter": "none", "energy_mj": None, "reasons": ["no meter on this machine"]}
    return profile


def emulated(profile: Profile) -> Profile:
    for entry in profile["bundles"]:
        for timed in entry["phases"].values():
            timed["origin"] = "emulated"
    return profile


def plans_of(profile: Profile) -> Plans:
    return {name: plan_from_profile(profile, link_from_name(name)) for name in ("3g", "wifi")}


# Pictures.


def test_every_sample_and_the_percentiles_it_supports_are_drawn(profile: Profile) -> None:
    first, second = latency_pictures(profile)
    words = words_of(first.svg)
    samples = profile["bundles"][0]["phases"]["head"]["samples_ms"]
    for expected in ("head, 200 samples (measured)", f"p95  {np.percentile(samples, 95):.2f}", "how many"):
        assert expected in words
    assert "p99" not in words
    assert first.title == "Latency of resnet18-rb1 (measured)"
    assert second.title == "Latency of resnet18-rb2 (measured)"


@pytest.mark.parametrize("samples", [[2.0], [2.0] * 300, [1.0, 900.0] * 100, [1e-6] * 5, list(range(1, 9001))])
def test_odd_samples_are_drawn(profile: Profile, samples: list[float]) -> None:
    profile["bundles"] = profile["bundles"][:1]
    profile["bundles"][0]["phases"]["tail"]["samples_ms"] = samples
    (picture,) = latency_pictures(profile)
    assert f"tail, {len(samples):,} samples" in words_of(picture.svg)
    assert len(picture.svg) < 800_000


def test_a_phase_without_samples_is_not_drawn(profile: Profile) -> None:
    emulated(profile)
    for timed in profile["bundles"][0]["phases"].values():
        timed["samples_ms"] = None
    (picture,) = latency_pictures(profile)
    assert picture.title == "Latency of resnet18-rb2 (emulated)"
    assert "head, 200 samples (emulated)" in words_of(picture.svg)


def test_a_power_trace_names_its_parts(metered: Profile) -> None:
    head, encode = power_pictures(metered)
    words = words_of(head.svg)
    for expected in ("40.0 mJ, 24.0 mJ above idle (measured)", "run 1", "run 3", "idle", "VDD_SYS_GPU", "power, W"):
        assert expected in words
    assert "no energy (run 2: throttled: SW thermal slowdown)" in words_of(encode.svg)
    assert encode.caption.endswith("Rejected: run 2: throttled: SW thermal slowdown.")
    assert "400 readings of ina3221, whose sensor has a new value every 50 ms" in head.caption


@pytest.mark.parametrize("kind", ["power", "energy"])
@pytest.mark.parametrize("readings", [2, 400, 20_000])
def test_traces_of_any_length_and_kind_are_drawn(profile: Profile, kind: str, readings: int) -> None:
    timed = profile["bundles"][0]["phases"]["head"]
    timed["energy"] = energy(readings, kind)
    picture = power_picture("net", "head", timed)
    assert len(picture.svg) < 400_000
    assert ("band spans" in picture.caption) == (readings > 1500)


def test_a_counter_of_energy_is_drawn_as_power(profile: Profile) -> None:
    timed = profile["bundles"][0]["phases"]["head"]
    timed["energy"] = energy(400, "energy")
    assert power_picture("net", "head", timed).figure is not None
    (axes,) = power_picture("net", "head", timed).figure.axes  # type: ignore[union-attr]
    (line,) = [line for line in axes.lines if line.get_label() == "VDD_IN"]
    heights = np.asarray(line.get_ydata(), dtype=float)
    assert np.percentile(heights, [5, 95]) == pytest.approx([2.0, 6.0], rel=0.02)


@pytest.mark.parametrize("readings", [0, 1])
def test_a_trace_of_nothing_is_refused(profile: Profile, readings: int) -> None:
    timed = profile["bundles"][0]["phases"]["head"]
    timed["energy"] = energy(readings=2)
    timed["energy"]["trace"]["times_s"] = [1.0] * readings
    timed["energy"]["trace"]["values"] = [[1.0] * readings] * 2
    with pytest.raises(ReportError, match=f"head of net has {readings} readings"):
        power_picture("net", "head", timed)


def test_a_damaged_trace_is_refused(profile: Profile) -> None:
    timed = profile["bundles"][0]["phases"]["head"]
    timed["energy"] = energy()
    timed["energy"]["trace"]["values"] = [[1.0, 2.0]] * 2
    with pytest.raises(ReportError, match="power trace of head of net"):
        power_picture("net", "head", timed)


def test_blocks_add_up_to_the_plan(profile: Profile) -> None:
    for plan in plans_of(profile).values():
        for candidate in plan["ranking"]:
            blocks = blocks_of_candidate(profile, candidate)
            total = sum(cell.value for cell in blocks.values())  # type: ignore[misc]
            assert total == pytest.approx(candidate["latency_ms"])
            assert ("uplink" in blocks) == (candidate["setup"] != "mobile-only")


def test_blocks_say_where_they_come_from(profile: Profile) -> None:
    plans = plans_of(profile)
    words = words_of(blocks_picture(profile, plans).svg)
    for expected in ("head (measured)", "uplink (modelled)", "3G, 1.1 Mbit/s up", "collaborative at rb2"):
        assert expected in words
    rows = list(csv.DictReader(io.StringIO(csv_from_table(blocks_table(profile, plans)))))
    assert len(rows) == 8
    collaborative = next(row for row in rows if row["setup"] == "collaborative at rb1")
    assert collaborative["uplink_ms_origin"] == "modelled"
    assert collaborative["sum_ms_origin"] == "measured+modelled"
    assert collaborative["whole_on_the_device_ms"] == ""


def test_nothing_to_plan_with_is_said(profile: Profile) -> None:
    for draw in (blocks_table, blocks_picture):
        with pytest.raises(ReportError, match="plan"):
            draw(profile, {})


def test_pixels_need_a_figure(profile: Profile) -> None:
    picture = latency_pictures(profile)[0]
    assert picture.png(40).startswith(PNG)
    assert picture.png(40) == picture.png(40)
    with pytest.raises(ReportError, match="has no pixels"):
        Picture("x", "", "<svg></svg>").png()


# Energies.


def test_energies_and_reasons_stand_in_the_table(metered: Profile) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_from_table(energy_table(metered)))))
    head, encode, decode, tail = rows[:4]
    assert (float(head["energy_mj"]), float(head["net_energy_high_mj"]), head["repeats"]) == (40.0, 25.0, "3")
    assert head["energy_mj_origin"] == "measured"
    assert encode["remark"] == "energy: none (run 2: throttled: SW thermal slowdown)"
    assert decode["remark"] == "energy: none (not metered: bench ran without --power)"
    assert tail["remark"] == "energy: none (no meter on this machine)"


def test_the_error_of_an_energy_is_that_of_its_interval() -> None:
    estimate = energy_of_phase({"energy": energy()}).estimate(net=False)
    assert estimate is not None
    # Three repeats at 99 %: t is 9.925 at two degrees of freedom.
    assert (estimate.mean, estimate.freedom) == (40.0, 2)
    assert estimate.standard_error == pytest.approx(1.0 / 9.92484, rel=1e-5)


@pytest.mark.parametrize("changes", [{"repeats": []}, {"energy_ci_mj": None}, {"confidence": None}])
def test_too_little_for_an_error_gives_none(changes: dict[str, Any]) -> None:
    assert energy_of_phase({"energy": energy(**changes)}).estimate(net=False) is None


# The report.


def test_a_report_is_a_page_markdown_tables_and_pictures(metered: Profile, tmp_path: Path) -> None:
    plans = plans_of(metered)
    names = write_report(report_from_profile(metered, plans), tmp_path)
    assert sorted(names) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    tables = ["phases.csv", "energy.csv", "blocks.csv", "bundles.csv"]
    stems = ["latency-1", "latency-2", "power-1", "power-2", "blocks", "bytes", "accuracy"]
    assert set(names) == {"report.html", "report.md", *tables} | {
        f"pictures/{stem}.{kind}" for stem in stems for kind in ("svg", "png")
    }
    for stem in stems:
        assert (tmp_path / f"pictures/{stem}.png").read_bytes().startswith(PNG)
        ElementTree.parse(tmp_path / f"pictures/{stem}.svg")
        assert f"(pictures/{stem}.svg)" in (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == len(stems)
    for wanted in (
        "energy: none (no meter on this machine)",
        "default-src 'none'",
        "Power trace: head of resnet18-rb1",
    ):
        assert wanted in page


@pytest.mark.slow
def test_the_same_profile_gives_the_same_files(metered: Profile, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files = write_report(report_from_profile(metered, plans_of(metered)), tmp_path / name)
        contents.append({file: (tmp_path / name / file).read_bytes() for file in files})
    assert contents[0] == contents[1]


def test_without_a_meter_the_report_says_so(profile: Profile) -> None:
    report = report_from_profile(profile, {}, "the profile has no tail")
    assert "Energy: none, bench ran without --power." in report.remarks
    assert "No blocks of an inference are shown: the profile has no tail." in report.remarks
    assert set(report.tables) == {"phases", "bundles"}


def test_what_was_emulated_is_called_so_everywhere(metered: Profile) -> None:
    emulated(metered)
    report = report_from_profile(metered, plans_of(metered))
    assert report.title.startswith("Emulated: ")
    assert report.remarks[0].startswith("Emulated (◇) means: ")
    of_time = [name for name in report.pictures if name not in ("bytes", "accuracy")]
    for name in of_time:
        picture = report.pictures[name]
        assert "emulated" in picture.title
        assert "emulated" in words_of(picture.svg)
        assert "(measured)" not in words_of(picture.svg).replace("bytes sent for one inference (measured)", "")
    for name in ("phases", "energy", "blocks"):
        assert report.tables[name].title.startswith("Emulated: ")
        assert "emulated" in csv_from_table(report.tables[name])
    assert html_from_report(report).count("emulated") > 50
    assert markdown_from_report(report).startswith("# Emulated: cpu on two cores")


def test_a_machine_that_was_not_there_is_reported_with_how_far_to_trust_it(
    profile: Profile, tmp_path: Path
) -> None:
    """As `bench --emulate` writes it: one time a phase, no samples."""
    emulated(profile)
    for _, _, timed in phases_of_profile(profile):
        time_ms = timed["summary"]["p50_ms"]
        timed["samples_ms"] = []
        timed["summary"] = dict.fromkeys(timed["summary"]) | {"count": 0, "mean_ms": time_ms, "p50_ms": time_ms}
    errors = {"points": 9, "median_error": 0.11, "worst_error": 0.42, "worst_network": "vgg16"}
    profile["emulation"] = {"target": "tx2", "mode": "MAXN", "precision": "fp16", "leave_one_out": errors}
    report = report_from_profile(profile, plans_of(profile))
    assert set(report.pictures) == {"blocks", "bytes", "accuracy"}
    told = "leave-one-out error: median 11 %, worst 42 % (vgg16)"
    assert told in words_of(report.pictures["blocks"].svg)
    assert all(told in report.tables[name].note for name in ("phases", "blocks"))
    assert any(told in remark for remark in report.remarks)
    assert "Energy: none, nothing ran." in report.remarks
    assert write_report(report, tmp_path)


def test_one_emulated_phase_makes_it_partly_emulated(profile: Profile) -> None:
    profile["bundles"][0]["phases"]["head"]["origin"] = "emulated"
    assert report_from_profile(profile, {}).title.startswith("Partly emulated: ")


def test_an_interrupted_profile_is_called_partial(profile: Profile) -> None:
    assert report_from_profile(profile | {"partial": True}, {}).remarks[0].startswith("Partial: ")


def test_an_unstable_phase_is_named(profile: Profile) -> None:
    profile["bundles"][0]["phases"]["head"]["summary"]["stable"] = False
    assert any("head of resnet18-rb1" in remark for remark in report_from_profile(profile, {}).remarks)


def test_words_of_a_profile_are_only_words(profile: Profile) -> None:
    bad = '<script>alert("1")</script>|`'
    profile["environment"]["cpu"] = profile["command"] = profile["bundles"][0]["bundle"]["name"] = bad
    report = report_from_profile(profile, {})
    assert "<script" not in html_from_report(report)
    assert "&lt;script" in html_from_report(report)


def test_a_profile_is_read_from_its_file(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile), encoding="utf-8")
    assert profile_from_file(path) == profile
