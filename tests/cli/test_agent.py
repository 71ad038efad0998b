"""`bottlekit agent`: one file for a device, and jobs that it builds."""

from __future__ import annotations

import json
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from python36 import python36_with_requirements

from bottlekit.device.engine import Engine

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def bottlekit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "bottlekit", *arguments, cwd=cwd)


@pytest.fixture(params=["this Python", pytest.param("Python 3.6", marks=pytest.mark.slow)], name="python")
def _python(request: pytest.FixtureRequest) -> Path:
    return Path(sys.executable) if request.param == "this Python" else python36_with_requirements()


def test_one_small_file_builds_compares_and_measures(tmp_path: Path, python: Path) -> None:
    """What a device gets by hand: the agent and the jobs, and nothing of this project's folder."""
    packed = json.loads(bottlekit("agent", "pack", "--json", cwd=tmp_path).stdout)
    agent = tmp_path / packed["path"]
    assert agent.stat().st_size == packed["bytes"] < 1_000_000

    made = bottlekit("agent", "jobs", FLEET, "--target", "cpu", "--json", "-q", cwd=tmp_path)
    jobs = json.loads(made.stdout)["jobs"]
    assert [Path(job).name for job in jobs[:3]] == ["tiny-rb1-head", "tiny-rb1-tail", "tiny-rb1-full"]

    for job in jobs[:3]:
        built = run(python, "-I", agent, "build", job, "-o", "engines", cwd=tmp_path)
        assert built.returncode == 0, built.stderr
        engine = Engine.load(str(tmp_path / json.loads(built.stdout.splitlines()[-1])["answer"]["installed"]))
        assert engine.golden_compared
        assert engine.sidecar["command"].startswith("bottlekit agent jobs ")

    measured = run(
        python, "-I", agent, "bench", FLEET / "rb1", "--target", "cpu", "--phase", "head", "--quick", cwd=tmp_path
    )
    assert measured.returncode == 0, measured.stderr
    profile = json.loads(measured.stdout.splitlines()[-1])["answer"]
    assert profile["bundles"][0]["phases"]["head"]["golden"]["compared"]


def test_a_head_on_a_device_and_a_tail_on_a_modern_server(tmp_path: Path, python: Path) -> None:
    """The agent's client and `bottlekit serve`, each in the Python it runs in: as both halves in one process."""
    agent = tmp_path / json.loads(bottlekit("agent", "pack", "--json", cwd=tmp_path).stdout)["path"]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    serve = [sys.executable, "-m", "bottlekit", "serve", str(FLEET), "--port", "0", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = "127.0.0.1:{}".format(json.loads(server.stdout.readline())["port"])
            done = run(python, "-I", agent, "infer", FLEET / "rb1", "image.png", "--server", address, cwd=tmp_path)
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["result", "answer"]
    local = bottlekit("infer", FLEET / "rb1", "image.png", "--local", "--json", "-q", cwd=tmp_path)
    (expected,) = json.loads(local.stdout)["images"]
    assert events[0]["class"] == expected["class"]
    # ONNX Runtime 1.10 sums in another order: a code may differ by one.
    logits = [
        [one["logit"] for one in sorted(top, key=itemgetter("index"))]
        for top in (events[0]["top"], expected["top"])
    ]
    assert logits[0] == pytest.approx(logits[1], abs=0.02)


def test_the_same_sources_give_the_same_file(tmp_path: Path) -> None:
    first, second = (
        json.loads(bottlekit("agent", "pack", "-o", name, "--json", cwd=tmp_path).stdout) for name in ("a", "b")
    )
    assert first["sha256"] == second["sha256"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_job_for_a_jetson_needs_no_jetson_here(tmp_path: Path) -> None:
    made = bottlekit("agent", "jobs", FLEET / "rb1", "-t", "tx2", "--part", "head", "--json", "-q", cwd=tmp_path)
    (job,) = json.loads(made.stdout)["jobs"]
    document = json.loads((tmp_path / job / "job.json").read_text())
    assert document["expects"] == {"tensorrt": "8.2", "sm": "6.2"}
    assert document["compile"]["precision"] == "fp16"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("jobs", FLEET, "-t", "tx3"), "'tx3' does not exist; there are: "),
        (("jobs", FLEET, "-t", "tx2", "--part", "neck"), "'neck' does not exist"),
        (("jobs", FLEET / "nothing", "-t", "tx2"), "nothing"),
        (("jobs", FLEET, "-t", "tx2", "--precision", "int8"), "int8"),
        (("jobs", FLEET, "-t", "tx2", "-o", "there"), "there/tiny-rb1-head exists already"),
        (("pack", "-o", "file/agent.pyz"), "file"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    (tmp_path / "there" / "tiny-rb1-head").mkdir(parents=True)
    (tmp_path / "file").write_text("a file")
    done = bottlekit("agent", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    message = " ".join(done.stderr.split())
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "jobs").exists()
