"""A Python 3.6 with what the device tests need, as a Jetson TX2 has it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DEVICE_TESTS = ROOT / "tests" / "device"
REQUIREMENTS = DEVICE_TESTS / "requirements-py36.txt"
# The last pip, setuptools and wheel for Python 3.6. thrift comes as source, and an isolated build would bring
# a setuptools that does not run there.
INSTALLERS = ["setuptools==59.6.0", "wheel==0.37.1"]
PIP = "pip==21.3.1"


def find_python36() -> str | None:
    """A Python 3.6: $BOTTLEKIT_PYTHON36, python3.6 on the PATH, or one of pyenv's."""
    asked = os.environ.get("BOTTLEKIT_PYTHON36")
    if asked:
        return asked
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [shutil.which("python3.6"), *sorted(pyenv.glob("versions/3.6.*/bin/python3.6"), reverse=True)]
    return next((str(candidate) for candidate in candidates if candidate and is_python36(candidate)), None)


def is_python36(python: str | pathlib.Path) -> bool:
    """Whether `python` runs and is 3.6; a pyenv shim exists but refuses to run when 3.6 is not its choice."""
    program = "import sys, venv, ensurepip; print(sys.version_info[:2])"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == "(3, 6)"


def run(*command: object) -> None:
    """Run a command; its output is the message when it fails."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}"


def environment_for(python: str) -> pathlib.Path:
    """The Python of a virtual environment with the requirements, made once and kept in the user's cache."""
    recipe = "\n".join([python, PIP, *INSTALLERS, REQUIREMENTS.read_text()])
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bottlekit-tests"
    environment = cache / f"py36-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not environment.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            new = pathlib.Path(scratch) / "environment"
            run(python, "-m", "venv", new)
            pip = [new / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run(*pip, PIP)
            run(*pip, *INSTALLERS)
            run(*pip, "--no-build-isolation", "--requirement", REQUIREMENTS)
            # Whole or not at all; where another run was faster, its environment is as good.
            with contextlib.suppress(OSError):
                new.rename(environment)
    return environment / "bin" / "python"


def python36_with_requirements() -> pathlib.Path:
    """The Python of `environment_for` a 3.6 of this machine; the test is skipped without one, and fails in CI."""
    python = find_python36()
    if python is None:
        why = "no Python 3.6 here: put python3.6 on the PATH, 'pyenv install 3.6', or set BOTTLEKIT_PYTHON36"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(why)
        pytest.skip(why)
    assert is_python36(python), f"{python} is no Python 3.6 with venv and ensurepip"
    return environment_for(python)
