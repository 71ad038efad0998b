"""What tests of several verbs share: a verb run in this process, engines to measure, images to learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.images import jpeg_from_image

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"


class Ran(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote with --json."""
        return json.loads(self.out)

    def refused(self, code: int) -> str:
        """The one line that it left, which refused with this exit code and wrote nothing else."""
        assert (self.code, self.out) == (code, ""), self.err
        assert self.err.startswith("bottlekit: ")
        assert self.err.count("\n") == 1
        return self.err


@pytest.fixture
def bottlekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs `bottlekit` with the words given, and tells how it Ran."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["bottlekit", *(str(word) for word in words)])
        code = common.run(app)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engines of the tiny fleet for the CPU. They are everybody's: copy them before you change one."""
    from bottlekit.build.build import build_bundle
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.targets.loader import target_from_name

    folder = tmp_path_factory.mktemp("engines")
    for bundle in fleet_from_path(str(FLEET)):
        build_bundle(bundle, target_from_name("cpu"), folder)
    return folder


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """The folder `shades` of images, dark ones and bright ones, below the test's own."""
    dice = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 5)):
        for name, shade in (("bright", 200), ("dark", 20)):
            folder = tmp_path / "shades" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = (shade + dice.integers(0, 40, (40, 40, 3))).astype(np.uint8)
                (folder / f"{number}.jpg").write_bytes(jpeg_from_image(image, 90))
    return tmp_path / "shades"


@pytest.fixture
def profile_of(tmp_path: Path) -> Callable[[Path, float], Path]:
    """A function that writes a profile of a fleet as `bottlekit bench` does; the whole network takes `whole_ms`."""

    def write(fleet: Path, whole_ms: float) -> Path:
        times = {"head": 0.1, "encode": 0.1, "decode": 0.1, "tail": 0.1, "baseline": whole_ms}
        phases = {name: {"origin": "measured", "summary": {"p50_ms": value}} for name, value in times.items()}
        bundles = [
            {
                "bundle": {
                    "name": one.name,
                    "sha256": one.sha256,
                    "split": one.split["name"],
                    "split_index": one.split["index"],
                },
                "payload_bytes": {"mean": 300.0},
                "framed_bytes": None,
                "phases": phases,
            }
            for one in fleet_from_path(str(fleet))
        ]
        path = tmp_path / "profile.json"
        path.write_text(json.dumps({"format": "bottlekit-profile", "version": 1, "bundles": bundles}))
        return path

    return write
