"""`serve-layers` and `infer --plan` as a user runs them: processes, sockets, a server that is killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottlekit.build.onnx_segments import OnnxSegments
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.device.segments.route import Route, Step
from bottlekit.device.segments.source import Span
from bottlekit.device.segments.traveller import Traveller

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from residual_classifier import write_residual_classifier
from typed import ENVIRONMENT, typed


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_residual_classifier(tmp_path / "classifier.onnx")


@contextlib.contextmanager
def server(classifier: Path, *options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    words = [sys.executable, "-m", "bottlekit", "serve-layers", str(classifier), "--port", "0", "--json", "-q"]
    process = subprocess.Popen([*words, *map(str, options)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    with process:
        try:
            announced = json.loads(process.stdout.readline())
            file = classifier / "baseline.onnx" if classifier.is_dir() else classifier
            assert announced["model"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
            yield f"{announced['host']}:{announced['port']}", process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGKILL)


def steps(count: int) -> list[tuple[str, int, int]]:
    """Five segments, four switches."""
    return [
        ("mobile", 0, 0),
        ("cloud", 1, 2),
        ("mobile", 3, 3),
        ("cloud", 4, count - 3),
        ("mobile", count - 2, count - 1),
    ]


@pytest.fixture
def schedule(classifier: Path, tmp_path: Path) -> Path:
    with OnnxSegments(classifier) as segments:
        count = segments.count
    document = {
        "format": "bottlekit-schedule",
        "version": 1,
        "model": {"sha256": hashlib.sha256(classifier.read_bytes()).hexdigest()},
        "codec": "none",
        "schedule": {
            "latency_ms": 5.0,
            "segments": [{"machine": one, "first": first, "last": last} for one, first, last in steps(count)],
        },
    }
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    return path


def expected(classifier: Path, photo: Path) -> list[float]:
    """The logits of the whole network in one piece, as exactly."""
    with OnnxSegments(classifier, threads=1) as segments:
        size = segments.input_shape[2]
        preprocessing: dict[str, Any] = {
            "resize": size,
            "crop": size,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        }
        image = input_from_image(image_from_file(str(photo)), preprocessing)[None]
        whole = segments.opened(Span(0, segments.count - 1), exact=True)
        logits = whole.run({segments.input_name: image})[segments.result_names[0]][0]
    return [float(value) for value in logits]


def test_a_schedule_of_four_switches_is_the_whole_network(classifier: Path, schedule: Path, photo: Path) -> None:
    logits = expected(classifier, photo)
    with server(classifier) as (address, _):
        words = ("infer", classifier, photo, "--plan", schedule, "--server", address, "--exact", "--top", 99)
        report = json.loads(typed(*words, "--json").stdout)
        shown = typed(*words).stdout
    image = report["images"][0]
    assert image["lost"] is None
    assert [step["machine"] for step in image["steps"]] == ["mobile", "cloud", "mobile", "cloud", "mobile"]
    assert {one["index"]: one["logit"] for one in image["top"]} == dict(enumerate(logits))
    assert image["class_index"] == int(np.argmax(logits))
    assert image["sent_bytes"] > 1000
    assert report["planned_ms"] == 5.0
    assert f"class {image['class_index']}\n" in shown


def test_the_client_finishes_alone_when_the_server_is_killed(classifier: Path, schedule: Path, photo: Path) -> None:
    logits = np.array(expected(classifier, photo), np.float32)
    with server(classifier) as (address, process), OnnxSegments(classifier, threads=1) as segments:
        host, port = address.split(":")
        route = Route(segments.sha256, [Step(m, Span(a, b)) for m, a, b in steps(segments.count)], None, 5.0)

        class Killing(OnnxSegments):
            """Kills the server while layer 3 runs here, between the server's two segments."""

            def opened(self, span: Span, exact: bool) -> Any:
                if armed and span.first == 3:
                    process.kill()
                    process.wait()
                return super().opened(span, exact)

        armed: list[bool] = []
        with Killing(classifier, threads=1) as here, Traveller(route, here, (host, int(port)), exact=True) as one:
            image = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
            before = one.run(image)
            assert before.lost is None
            armed.append(True)
            after = one.run(image)
            assert after.lost is not None
            assert [step.machine for step in after.steps] == ["mobile", "cloud", "mobile", "mobile"]
            name = here.result_names[0]
            assert np.array_equal(after.results[name], before.results[name])
    assert logits.shape == before.results[name][0].shape


def test_without_a_server_there_is_one_clear_line(classifier: Path, schedule: Path, photo: Path) -> None:
    for words, code, line in (
        ((), 2, "the schedule runs layers on a server: give --server HOST:PORT"),
        (("--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1"),
        (("--local",), 2, "--plan says what runs where"),
        (("--server", "127.0.0.1:1", "--timeout", "0"), 2, "--timeout must be more than 0"),
        (("--server", "127.0.0.1:1", "--top", "0"), 2, "--top must be at least 1"),
    ):
        err = typed("infer", classifier, photo, "--plan", schedule, *words, code=code).stderr
        assert line in err
        assert err.count("\n") == 1
    assert "give --plan" in typed("infer", classifier, photo, "--local", "--exact", code=2).stderr


def test_a_bundle_brings_its_names_and_its_preprocessing(photo: Path, tmp_path: Path) -> None:
    bundle = Path(__file__).parents[1] / "data/tiny_fleet/rb1"
    layers, plan = tmp_path / "layers.json", tmp_path / "plan.json"
    typed("profile-layers", bundle, "--samples", "5", "--threads", "1", "-o", layers)
    planning = ("--switches", "--link", "wifi", "--uplink-mbps", "1e6", "--downlink-mbps", "1e6", "--planner")
    typed("plan", layers, *planning, "cloud-only", "-o", plan)
    local = json.loads(typed("infer", bundle, photo, "--mobile-only", "--json").stdout)["images"][0]
    with server(bundle) as (address, _):
        words = ("infer", bundle, photo, "--plan", plan, "--server", address)
        image = json.loads(typed(*words, "--json").stdout)["images"][0]
        assert f": {local['class']}\n" in typed(*words).stdout
    assert image["steps"][0]["machine"] == "cloud"
    assert [one["class"] for one in image["top"]] == [one["class"] for one in local["top"]]
    np.testing.assert_allclose(
        [one["logit"] for one in image["top"]], [one["logit"] for one in local["top"]], rtol=1e-4
    )


def test_another_classifier_is_refused(classifier: Path, schedule: Path, photo: Path, tmp_path: Path) -> None:
    other = write_residual_classifier(tmp_path / "other.onnx", seed=2)
    err = typed("infer", other, photo, "--plan", schedule, "--server", "127.0.0.1:1", code=1).stderr
    assert "is for another network" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--max-mib", "0"), "--max-mib must be 1 to 1024"),
        (("--threads", "0"), "--threads must be at least 1"),
        (("--host", "0.0.0.0"), "--insecure"),
    ],
)
def test_a_server_that_should_not_start_says_why(classifier: Path, words: tuple[str, ...], line: str) -> None:
    assert line in typed("serve-layers", classifier, "--port", "0", *words, code=2).stderr


def test_tls_from_end_to_end(classifier: Path, schedule: Path, photo: Path, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    typed("certs", "init", pki)
    typed("certs", "server", pki, "lab", "--host", "127.0.0.1")
    typed("certs", "device", pki, "tx2-01")
    with server(classifier, "--tls", pki / "servers/lab") as (address, _):
        words = ("infer", classifier, photo, "--plan", schedule, "--server", address)
        report = json.loads(typed(*words, "--tls", pki / "devices/tx2-01", "--json").stdout)
        assert report["images"][0]["lost"] is None
        assert "closed the connection" in typed(*words, code=1).stderr
