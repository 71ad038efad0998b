"""`bottlekit codecs` as it is typed."""

from __future__ import annotations

import json
import sys

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import Bundle
from bottlekit.device.codecs import CODEC_NAMES


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bottlekit", "codecs", *map(str, arguments)])
    monkeypatch.setattr(common, "_quiet", False)
    return common.run(app)


def test_words_and_json(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, small_bundle.path, "--images", 10) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for words in (*CODEC_NAMES, "jpeg (the bundle's)", "feature 4 x 8 x 8", "10 held-out images", "exact"):
        assert words in out
    assert typed(monkeypatch, small_bundle.path, "--images", 10, "--codec", "learned", "--bits", 2, "--json") == 0
    (one,) = json.loads(capfd.readouterr().out)["codecs"]
    assert (one["name"], one["bits"], one["lossless"]) == ("learned", 2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--codec", "gif"], 2, "codec 'gif' does not exist; there are: jpeg, jpeg-lean"),
        (["--codec", "auto"], 2, "codec 'auto' does not exist"),
        (["--bits", "9"], 2, "--bits must be 1..8, not 9"),
        (["--quality", "0"], 2, "--quality must be 1..100, not 0"),
        (["--range", "wide"], 2, "--range must be image or static, not 'wide'"),
        (["--data-root", "nowhere"], 2, "digits"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str],
    code: int,
    words: str,
    small_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert typed(monkeypatch, small_bundle.path, *arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("bottlekit: ")
    assert words in err


def test_a_place_without_a_bundle_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "nowhere") == 1
    assert "no bundle at nowhere" in capfd.readouterr().err
