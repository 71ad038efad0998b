"""`serve-layers --training` and `train-layers` as a user runs them; the server is killed on the way."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from typed import ENVIRONMENT, typed

RECIPE = """
[backbone]
optimizer = "sgd"
epochs = 1
batch_size = 64
learning_rate = 0.05
"""


@contextlib.contextmanager
def server() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    words = ["serve-layers", "--training", "--threads", "1", "--port", "0", "--json", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", *words], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    with process:
        try:
            yield json.loads(process.stdout.readline())["port"], process
        finally:
            process.terminate()


class Relay:
    """Passes bytes on to a server; after so many of the client's, `then` is called, once."""

    def __init__(self, port: int, after_bytes: int, then: Callable[[], None]) -> None:
        self.port = port
        self.passed = 0
        self._after_bytes = after_bytes
        self._then = then
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listening.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as upstream:
            back = threading.Thread(target=self._copy, args=(upstream, client), daemon=True)
            back.start()
            self._copy(client, upstream, count=True)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket, count: bool = False) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if count:
                    before, self.passed = self.passed, self.passed + len(piece)
                    if before <= self._after_bytes < self.passed:
                        self._then()
                sink.sendall(piece)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def schedule(path: Path) -> Path:
    document: dict[str, Any] = {
        "format": "bottlekit-schedule",
        "version": 1,
        "training": {
            "backbone": "cifar_resnet8",
            "num_classes": 10,
            "input_size": 32,
            "cuts": ["relu", "layer1", "layer2", "layer3"],
        },
        "schedule": {
            "segments": [
                {"machine": "mobile", "first": 0, "last": 0},
                {"machine": "cloud", "first": 1, "last": 2},
                {"machine": "mobile", "first": 3, "last": 3},
                {"machine": "cloud", "first": 4, "last": 7},
                {"machine": "mobile", "first": 8, "last": 9},
            ]
        },
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.slow
def test_twenty_two_steps_with_a_server_that_is_killed_are_local_training(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from torch.testing import assert_close

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    options = ("--recipe", recipe, "--seed", "3")
    here, both = tmp_path / "here.safetensors", tmp_path / "both.safetensors"
    typed("train", "--backbone", "cifar_resnet8", "--input-size", "32", *options, "-o", here)
    plan = schedule(tmp_path / "plan.json")
    with server() as (port, first), server() as (other_port, _):

        def kill() -> None:
            first.kill()
            first.wait()
            relay.port = other_port

        relay = Relay(port, 50_000_000, kill)
        with contextlib.closing(relay):
            done = typed("train", "--plan", plan, "--server", relay.address, *options, "-o", both)
    assert relay.passed > 100_000_000
    assert "the step is done again" in done.stderr
    one, other = load_file(here), load_file(both)
    assert set(one) == set(other)
    for name, value in one.items():
        assert_close(other[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_without_a_server_there_is_one_clear_line(tmp_path: Path) -> None:
    plan, out = schedule(tmp_path / "plan.json"), tmp_path / "net.safetensors"
    for words, code, line in (
        (("--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1"),
        (("--server", "nowhere"), 2, "--server must be HOST:PORT"),
        (("--server", "127.0.0.1:1", "--patience", "-1"), 2, "--patience must be more than 0"),
    ):
        assert line in typed("train-layers", plan, "-o", out, *words, code=code).stderr
        assert not out.exists()
    together = ("train", "--plan", plan, "--server", "127.0.0.1:1", "-o", out)
    assert "no server answers" in typed(*together, code=1).stderr
    assert "takes either" in typed("serve-layers", code=2).stderr
    assert "takes either" in typed("serve-layers", "x.onnx", "--training", code=2).stderr


def test_a_training_schedule_from_a_profile_of_steps(tmp_path: Path) -> None:
    from bottlekit.training.together.plan import training_plan_from_file

    layers, plan = tmp_path / "layers.json", tmp_path / "plan.json"
    network = ("--backbone", "cifar_resnet8", "--input-size", "32", "--batch-size", "4", "--threads", "1")
    typed("profile-layers", *network, "--samples", "5", "-o", layers)
    profile = json.loads(layers.read_text(encoding="utf-8"))
    assert len(profile["groups"]) == 10
    assert all(group["backward_summary"]["p50_ms"] > 0 for group in profile["groups"])
    words = (
        "plan",
        layers,
        "--switches",
        "--link",
        "wifi",
        "--uplink-mbps",
        "1e6",
        "--downlink-mbps",
        "1e6",
        "--device-load",
        "90",
    )
    typed(*words, "-o", plan)
    schedule = json.loads(plan.read_text(encoding="utf-8"))
    assert len(schedule["layers"]) == 8
    # The other machine is ninety times as fast.
    assert schedule["schedule"]["switches"] >= 1
    assert schedule["schedule"]["update_bytes"] > 0
    found = training_plan_from_file(str(plan))
    assert found.model.backbone == "cifar_resnet8"
    assert any(found.backward_there)
    for line, more in (
        ("takes either", ("x.onnx",)),
        ("--codec is for inference", ("--codec", "png")),
        ("--batch-size must be at least 2", ("--batch-size", "1")),
        ("module of", ("--cuts", "nowhere")),
    ):
        assert line in typed("profile-layers", *network, *more, "-o", layers, code=2).stderr
