"""The device tests again, under the Python that a Jetson TX2 has."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from python36 import DEVICE_TESTS, ROOT, python36_with_requirements


@pytest.mark.slow
def test_the_device_tests_pass_under_python_36(tmp_path: pathlib.Path) -> None:
    python = python36_with_requirements()
    report = tmp_path / "report.xml"
    # pytest 7.0 cannot read this project's settings; the device tests' conftest.py brings what they need.
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ROOT]
    done = subprocess.run(
        [python, "-m", "pytest", *options, "--junitxml", report, DEVICE_TESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"the device tests fail under Python 3.6:\n{done.stdout[-8000:]}"
    ran = {
        case.get("classname", "").split(".")[-1]
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("skipped") is None
    }
    assert ran == {path.stem for path in DEVICE_TESTS.rglob("test_*.py")}
