"""What the build tests share: small bundles that may be changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.files import sha256_of_file

TINY = Path(__file__).parents[1] / "data" / "tiny_fleet" / "rb1"


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """A function that gives a copy of the committed tiny bundle, which a test may change before it is sealed.

    tiny_bundle(change=None, folder="bundle", **fields): `change(folder)` edits files, `fields` replace entries
    of bundle.json; the hashes are then made to fit, as if the bundle had been exported that way.
    """

    def write(change: Callable[[Path], None] | None = None, folder: str = "bundle", **fields: object) -> Bundle:
        path = tmp_path / folder
        shutil.copytree(TINY, path, dirs_exist_ok=True)
        if change is not None:
            change(path)
        manifest = {**json.loads((path / "bundle.json").read_text()), **fields}
        for name, entry in manifest["files"].items():
            file = path / name
            entry.update(sha256=sha256_of_file(str(file)), bytes=file.stat().st_size)
        (path / "bundle.json").write_text(json.dumps(manifest))
        return Bundle.load(str(path))

    return write
