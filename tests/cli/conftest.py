"""What tests of several verbs share: a verb run in this process, and engines to measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app

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
