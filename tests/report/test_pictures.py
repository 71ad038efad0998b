"""Pictures: the same figures give the same bytes, the words are in them, and nothing else gets in."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest

from bottlekit.errors import ReportError
from bottlekit.report.drawing import checked_svg
from bottlekit.report.examples import MOST_EXAMPLES, Example, canvases_from_features, examples_picture
from bottlekit.report.pictures import accuracy_picture, bytes_picture, phases_picture, terms_picture

Profile = dict[str, Any]
Plans = dict[str, dict[str, Any]]


def words_of(svg: str) -> str:
    """All text of a drawing, the title that is read out included."""
    return " | ".join(part for part in ElementTree.fromstring(svg).itertext() if part.strip())


@pytest.fixture
def drawings(profile: Profile, plans: Plans, images: list[Example]) -> dict[str, Callable[[], Any]]:
    return {
        "latency": lambda: terms_picture(profile, plans, "latency"),
        "energy": lambda: terms_picture(profile, plans, "energy"),
        "bytes": lambda: bytes_picture(profile),
        "accuracy": lambda: accuracy_picture(profile),
        "phases": lambda: phases_picture(profile),
        "examples": lambda: examples_picture(images),
    }


NAMES = ["latency", "energy", "bytes", "accuracy", "phases", "examples"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_figures_give_the_same_bytes(drawings: dict[str, Callable[[], Any]], name: str) -> None:
    settings = dict(matplotlib.rcParams)
    assert drawings[name]() == drawings[name]()
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_one_plain_drawing(drawings: dict[str, Callable[[], Any]], name: str) -> None:
    picture = drawings[name]()
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert root.get("width") is None
    assert root.get("viewBox")
    assert "metadata" not in picture.svg
    assert picture.title
    assert picture.caption


def test_ids_of_pictures_on_one_page_do_not_meet(drawings: dict[str, Callable[[], Any]]) -> None:
    found = [identifier for draw in drawings.values() for identifier in re.findall(r'\bid="([^"]+)"', draw().svg)]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", NAMES)
def test_references_lead_to_what_is_in_the_picture(drawings: dict[str, Callable[[], Any]], name: str) -> None:
    svg = drawings[name]().svg
    identifiers = set(re.findall(r'\bid="([^"]+)"', svg))
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    assert references <= identifiers


@pytest.mark.parametrize("name", NAMES)
def test_the_ink_is_the_pages(drawings: dict[str, Callable[[], Any]], name: str) -> None:
    svg = drawings[name]().svg
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "#ffffff" not in svg


@pytest.mark.parametrize("name", NAMES[:5])
def test_the_origin_is_said_in_words(drawings: dict[str, Callable[[], Any]], name: str) -> None:
    words = words_of(drawings[name]().svg)
    assert "measured" in words
    assert ("modelled" in words) == (name in ("latency", "energy"))


def test_emulated_terms_are_called_emulated(profile: Profile, plans: Plans) -> None:
    for candidate in plans["3g"]["ranking"]:
        if "server_ms" in candidate["origins"]:
            candidate["origins"]["server_ms"] = "emulated"
    assert "server (emulated)" in words_of(terms_picture(profile, {"3g": plans["3g"]}).svg)
    errors = {"points": 9, "median_error": 0.04, "worst_error": 0.6, "worst_network": "net"}
    emulation = {"target": "tx2", "mode": "maxn", "precision": "fp16", "leave_one_out": errors}
    plans["3g"]["assumptions"]["server_emulation"] = emulation
    caption = terms_picture(profile, {"3g": plans["3g"]}).caption
    assert "Emulated tx2, maxn, fp16" in caption
    assert "leave-one-out error: median 4 %" in caption


def test_bars_carry_their_sums_and_panels_their_networks(profile: Profile, plans: Plans) -> None:
    words = words_of(terms_picture(profile, plans, "latency").svg)
    for expected in ("3G, 1.1 Mbit/s up", "4G, 5.85", "Wi-Fi, 18.88", "collaborative at rb2", "latency, ms"):
        assert expected in words
    total = plans["3g"]["ranking"][0]["latency_ms"]
    assert f"{total:.2f} ms" in words


def test_bytes_are_written_beside_the_points(profile: Profile) -> None:
    words = words_of(bytes_picture(profile).svg)
    assert "1,460 B" in words
    assert "420 B, framed 466 B" in words


def test_bytes_without_jpeg_and_framing(profile: Profile) -> None:
    for entry in profile["bundles"]:
        entry["input_jpeg_bytes"] = entry["framed_bytes"] = None
        entry["accuracy"]["baseline"] = None
    assert "cloud-only" not in words_of(bytes_picture(profile).svg)
    assert "framed" not in words_of(bytes_picture(profile).svg)
    assert "uncompressed" not in words_of(accuracy_picture(profile).svg)


def test_a_bundle_that_nobody_trained_has_no_accuracy(profile: Profile) -> None:
    profile["bundles"][0]["accuracy"] = None
    words = words_of(accuracy_picture(profile).svg)
    assert "rb2" in words
    assert "rb1" not in words
    profile["bundles"][1]["accuracy"] = None
    with pytest.raises(ReportError, match="no bundle with an accuracy"):
        accuracy_picture(profile)
    assert "420 B" in words_of(bytes_picture(profile).svg)


def test_phases_name_the_median_and_the_number_of_samples(profile: Profile) -> None:
    samples = profile["bundles"][0]["phases"]["head"]["samples_ms"]
    assert f"median {float(np.median(samples)):.2f} ms, 200 samples" in words_of(phases_picture(profile).svg)


def test_phases_take_one_sample_and_a_zero(profile: Profile) -> None:
    profile["bundles"] = profile["bundles"][:1]
    phases = profile["bundles"][0]["phases"]
    phases["encode"]["samples_ms"] = [0.0, 0.5]
    phases["tail"]["samples_ms"] = [2.0]
    assert "2.00 ms, 1 samples" in words_of(phases_picture(profile).svg)


def test_a_phase_that_was_emulated_is_a_line_and_its_error_is_told(profile: Profile) -> None:
    for entry in profile["bundles"]:
        for phase in entry["phases"].values():
            phase.update(origin="emulated", samples_ms=[], summary={"count": 0, "mean_ms": 1.5, "p50_ms": 1.5})
    errors = {"points": 9, "median_error": 0.04, "worst_error": 0.6, "worst_network": "net"}
    profile["emulation"] = {"target": "tx2", "mode": "maxn", "precision": "fp16", "leave_one_out": errors}
    picture = phases_picture(profile)
    assert "1.50 ms, emulated" in words_of(picture.svg)
    assert "time of one run, ms (emulated)" in words_of(picture.svg)
    assert "leave-one-out error: median 4 %, worst 60 % (net)" in picture.caption


def test_examples_show_prediction_truth_and_bytes(images: list[Example]) -> None:
    words = words_of(examples_picture(images).svg)
    for expected in ("✓ 0", "✗ 5", "is 6", "405 B", "reduced feature", "after the codec"):
        assert expected in words


def test_at_most_eight_examples_are_shown(images: list[Example]) -> None:
    words = words_of(examples_picture(images * 3).svg)
    assert words.count("✓") + words.count("✗") == MOST_EXAMPLES


@pytest.mark.parametrize("name", ["$x^{", "<script>alert(1)</script>", "a & b", "日本", "x" * 40, "%s {} \\frac"])
def test_names_of_classes_are_only_words(images: list[Example], name: str) -> None:
    example = Example(images[0].image, images[0].sent, images[0].received, 1, name, name)
    svg = examples_picture([example]).svg
    assert "<script" not in svg
    assert name[:13] in words_of(svg)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: terms_picture({"bundles": []}, {}), "no plan to draw"),
        (lambda: phases_picture({"bundles": []}), "no timed phase"),
        (lambda: bytes_picture({"bundles": []}), "no bundle"),
        (lambda: accuracy_picture({"bundles": []}), "no bundle"),
        (lambda: examples_picture([]), "no example"),
    ],
)
def test_nothing_to_draw_is_said(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ReportError, match=message):
        draw()


def test_canvases_share_the_scale_of_what_was_sent() -> None:
    sent = np.array([[[0.0, 1.0]], [[2.0, 4.0]]], dtype=np.float32)
    received = sent + np.float32(1.0)
    before, after = canvases_from_features(sent, received)
    assert before.tolist() == [[0, 64, 128, 255]]
    assert after.tolist() == [[64, 128, 191, 255]]


def test_canvases_of_a_constant_feature_are_dark() -> None:
    constant = np.full((1, 2, 2), 3.5, dtype=np.float32)
    before, after = canvases_from_features(constant, constant)
    assert not before.any()
    assert not after.any()


@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 3)])
def test_canvases_refuse_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ReportError, match="before and after the codec"):
        canvases_from_features(np.zeros((1, 2, 2), np.float32), np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "svg",
    [
        "<p>no drawing</p>",
        "<svg><script>1</script></svg>",
        "<svg onload='x()'></svg>",
        '<svg><image href="https://example.org/x.png"/></svg>',
        '<svg><use xlink:href="other.svg#a"/></svg>',
        "<svg><style>@import 'x.css'</style></svg>",
        '<svg><rect style="fill:url(http://example.org)"/></svg>',
        "<svg><foreignObject/></svg>",
        "<svg></svg><p>more</p>",
    ],
)
def test_a_drawing_that_runs_or_loads_something_is_refused(svg: str) -> None:
    with pytest.raises(ReportError, match="is no plain SVG drawing"):
        checked_svg(svg, "picture")
