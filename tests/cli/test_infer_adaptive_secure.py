"""`bottlekit infer --adaptive` with a certificate and a token over a real socket; its server goes and comes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.files import read_json, sha256_of_file, write_json
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.device.pipeline import local_split_from_bundle, local_whole_from_bundle
from bottlekit.serving import certs

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import join, wait_until

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "PYTHONUNBUFFERED": "1",
}
TOKEN = "0123456789abcdef0123"
# More images than are ever asked: the client is ended when everything was seen.
IMAGES = 20000


def slowed(path: Path) -> None:
    """Let a graph compute a few thousand million products more, whose sum it adds nothing of to its logits."""
    model = onnx.load(str(path))
    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["quick_logits" if name == output.name else name for name in node.output]
    side = 1024
    square = numpy_helper.from_array(np.full((side, side), 1.0 / side, np.float32), "square")
    nothing = numpy_helper.from_array(np.zeros((), np.float32), "nothing")
    graph.initializer.extend([square, nothing])
    graph.node.append(helper.make_node("ReduceMean", [graph.input[0].name], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["square", "mean"], ["product0"]))
    for turn in range(3):
        graph.node.append(helper.make_node("MatMul", [f"product{turn}", "square"], [f"product{turn + 1}"]))
    graph.node.append(helper.make_node("ReduceMean", ["product3"], ["last"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["last", "nothing"], ["zero"]))
    graph.node.append(helper.make_node("Add", ["quick_logits", "zero"], [output.name]))
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """The tiny fleet with a whole network that is slow for real, so that a server is worth asking."""
    folder = tmp_path / "fleet"
    shutil.copytree(FLEET, folder)
    for bundle in folder.iterdir():
        graph = bundle / "baseline.onnx"
        if graph.exists():
            slowed(graph)
            manifest = read_json(str(bundle / "bundle.json"), "bundle")
            manifest["files"]["baseline.onnx"].update(sha256=sha256_of_file(str(graph)), bytes=graph.stat().st_size)
            write_json(str(bundle / "bundle.json"), manifest)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "i.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    return path


@pytest.fixture
def profile(fleet: Path, profile_of: Callable[[Path, float], Path]) -> Path:
    return profile_of(fleet, 100.0)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    certs.init_authority(folder)
    certs.issue(folder, "server", "lab", ("localhost",))
    certs.issue(folder, "device", "tx2-01")
    (tmp_path / "tokens").write_text(f"tx2-01 {TOKEN}\n")
    (tmp_path / "token").write_text(TOKEN + "\n")
    return folder


@contextlib.contextmanager
def server(fleet: Path, pki: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`bottlekit serve` that wants both a certificate and a token; killed in the end."""
    words = [sys.executable, "-m", "bottlekit", "serve", str(fleet), "--port", str(port), "--json", "--quiet"]
    words += ["--tls", str(pki / "servers/lab"), "--tokens", str(pki.parent / "tokens")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


class Infer(threading.Thread):
    """A running `bottlekit infer --adaptive`, and where each answer came from, as it said so."""

    def __init__(self, fleet: Path, image: Path, port: int, profile: Path, pki: Path) -> None:
        super().__init__()
        words = [sys.executable, "-m", "bottlekit", "infer", str(fleet), *[image.name] * IMAGES, "--adaptive"]
        words += ["--server", f"localhost:{port}", "--profile", str(profile), "--server-profile", str(profile)]
        words += ["--tls", str(pki / "devices/tx2-01"), "--token-file", str(pki.parent / "token")]
        self.process = subprocess.Popen(
            words,
            cwd=image.parent,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.answers: list[tuple[str, str]] = []

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"i\.png: (\S+)", line):
                said = found[1]
            if found := re.match(r"  where +(\S+)", line):
                self.answers.append((found[1].rstrip(":,"), said))

    def wait_for(self, wanted: Callable[[str], bool], count: int, what: str) -> None:
        """Wait for so many answers more from there."""
        before = len(self.answers)

        def came() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1]
            return sum(wanted(split) for split, _ in self.answers[before:]) >= count

        wait_until(came, what)

    def end(self) -> str:
        """End it; what it wrote on standard error."""
        self.process.kill()
        join(self)
        with self.process as process:
            assert process.stderr is not None
            return process.stderr.read()


def classes_of(bundle: Bundle, image: Path) -> tuple[str, str]:
    """What the split and the whole network call it."""
    pixels = input_from_image(image_from_file(str(image)), bundle.preprocessing)[None]
    with local_split_from_bundle(bundle) as split, local_whole_from_bundle(bundle) as whole:
        first, second = (int(np.argmax(one.infer(pixels).logits)) for one in (split, whole))
    return bundle.classes[first], bundle.classes[second]


@pytest.mark.slow
def test_it_falls_back_comes_back_and_survives_its_own_revocation(
    fleet: Path, image: Path, profile: Path, pki: Path
) -> None:
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(server(fleet, pki))
        device = Infer(fleet, image, port, profile, pki)
        stack.callback(device.process.kill)
        device.start()
        device.wait_for(lambda split: split.startswith("rb"), 3, "an answer over TLS")
        process.kill()
        process.wait()
        device.wait_for(lambda split: split == "mobile-only", 3, "an answer without the server")
        again, _ = stack.enter_context(server(fleet, pki, port))
        device.wait_for(lambda split: split.startswith("rb"), 3, "an answer of the new server")
        certs.revoke(pki, "tx2-01")
        again.send_signal(signal.SIGHUP)
        device.wait_for(lambda split: split == "mobile-only", 5, "an answer without a certificate")
        assert "Traceback" not in device.end()
    rb1, rb2 = fleet_from_path(str(fleet))
    expected = {"rb1": classes_of(rb1, image)[0], "mobile-only": classes_of(rb1, image)[1]}
    expected["rb2"] = classes_of(rb2, image)[0]
    assert set(device.answers) <= set(expected.items())
