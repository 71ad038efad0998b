"""The table of all codecs on a bundle's features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.codecs import CODEC_NAMES
from bottlekit.device.files import read_json, write_json
from bottlekit.errors import BottlekitError, UnknownNameError
from bottlekit.export.codec_fit import CodecRequest
from bottlekit.export.codec_table import codec_table


def table(bundle: Bundle, said: list[str] | None = None, images: int = 20, **request: Any) -> dict[str, Any]:
    heard = [] if said is None else said
    return codec_table(bundle, CodecRequest(**request), None, images, heard.append, lambda _: None)


def without_data(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of a bundle that names no data set."""
    shutil.copytree(bundle.path, folder)
    manifest = read_json(str(folder / "bundle.json"), "bundle")
    manifest["payload_bytes"]["data"] = "random"
    write_json(str(folder / "bundle.json"), manifest)
    return Bundle.load(str(folder))


def test_every_codec_has_its_bytes_and_times(small_bundle: Bundle) -> None:
    said: list[str] = []
    found = table(small_bundle, said)
    assert said == []
    assert found["bundle"] == {"name": small_bundle.name, "sha256": small_bundle.sha256}
    assert (found["measured_on"], found["calibrated_on"]) == (
        "digits, 20 held-out images", "digits, 512 training images",
    )  # fmt: skip
    assert [one["name"] for one in found["codecs"]] == list(CODEC_NAMES)
    by_name = {one["name"]: one for one in found["codecs"]}
    for one in found["codecs"]:
        sizes = one["payload_bytes"]
        assert 0 < sizes["p50"] <= sizes["p99"] <= sizes["max"]
        assert one["encode_us"] > 0
        assert one["decode_us"] > 0
        assert one["in_bundle"] == (one["name"] == "jpeg")
    assert by_name["raw"]["payload_bytes"] == {"mean": 264, "p50": 264, "p99": 264, "max": 264}
    assert by_name["jpeg"]["payload_bytes"]["mean"] == by_name["jpeg-lean"]["payload_bytes"]["mean"] + 330


def test_settings_can_be_changed_and_one_codec_asked_for(small_bundle: Bundle) -> None:
    found = table(small_bundle, name="raw", bits=3, range="static")
    (one,) = found["codecs"]
    assert (one["name"], one["bits"], one["range"], one["in_bundle"]) == ("raw", 3, "static", False)
    assert one["payload_bytes"]["max"] == 4 * 8 * 8 * 3 / 8
    with pytest.raises(UnknownNameError, match="codec 'auto' does not exist"):
        table(small_bundle, name="auto")


def test_a_codec_that_cannot_be_used_says_why(small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    by_name = {one["name"]: one for one in table(small_bundle)["codecs"]}
    assert "needs a Pillow with WebP" in by_name["webp"]["why_not"]
    assert "why_not" not in by_name["learned"]


def test_without_its_data_the_bundles_golden_features_are_measured(small_bundle: Bundle, tmp_path: Path) -> None:
    bundle = without_data(small_bundle, tmp_path / "copy")
    said: list[str] = []
    found = table(bundle, said, name="zdict")
    assert found["measured_on"] == found["calibrated_on"] == "the bundle's golden features"
    assert "golden features" in said[0]
    with pytest.raises(BottlekitError):
        codec_table(bundle, CodecRequest(), tmp_path, 10, said.append, said.append)
