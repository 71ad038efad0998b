"""Certificates, limits, logs, pages and the live view, at the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottlekit.device.files import sha256_of_file, write_json

FLEET = Path(__file__).parent.parent / "data" / "tiny_fleet"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}

Run = Callable[..., str]


@contextlib.contextmanager
def server(*options: object, fleet: Path = FLEET) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(what a server process announced, the lines of its log)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", "serve", str(fleet), "--port", "0", "--json", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(iter(err.readline, "")))
    reading.start()
    try:
        line = out.readline()
        assert line, lines
        yield json.loads(line), lines
    finally:
        process.terminate()
        process.wait(60)
        reading.join(60)
        out.close()
        err.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.jpg"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pki(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    run("certs", "init", folder)
    assert run("certs", "server", folder, "lab", "--host", "localhost").strip() == str(folder / "servers/lab")
    assert json.loads(run("certs", "device", folder, "tx2-01", "--json")) == {
        "folder": str(folder / "devices/tx2-01")
    }
    return folder


def wait_for(lines: list[str], words: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        found = [line for line in lines if words in line]
        if found:
            return found[0]
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)


def test_from_certificates_to_a_revoked_device(run: Run, pki: Path, picture: Path) -> None:
    device = ("--tls", pki / "devices/tx2-01", "--timeout", 60)
    with server("--tls", pki / "servers/lab", "--log-json", "--http", "127.0.0.1:0") as (announced, lines):
        address = f"localhost:{announced['port']}"
        local = json.loads(run("infer", FLEET, picture, "--local", "--json"))
        remote = json.loads(run("infer", FLEET, picture, "--server", address, *device, "--json"))
        assert remote["images"][0]["top"] == local["images"][0]["top"]
        connected = json.loads(wait_for(lines, '"connected"'))
        assert connected["client"] == "tx2-01"
        assert {"time", "event", "message", "peer"} <= set(connected)
        assert "rb1" in run("top", announced["http"], "--once")
        status = json.loads(run("top", announced["http"], "--json"))
        assert status["splits"]["rb1"]["answered"] == 1

        assert "want --tls" in run("infer", FLEET, picture, "--server", address, code=1)
        written = json.loads(run("certs", "revoke", pki, "tx2-01", "--json"))["written"]
        assert str(pki / "servers/lab/revoked.pem") in written
        os.kill(announced["pid"], signal.SIGHUP)
        assert json.loads(wait_for(lines, '"reloaded"'))["bundles"] == "tiny-rb1, tiny-rb2"
        assert "certificate" in run("infer", FLEET, picture, "--server", address, *device, code=1)
        assert json.loads(wait_for(lines, "certificate revoked"))["event"] == "ended"
    assert json.loads(lines[-1])["event"] == "stopped"
    assert "revoked" in run("certs", "list", pki)
    names = [one["name"] for one in json.loads(run("certs", "list", pki, "--json"))["certificates"]]
    assert names == ["lab", "tx2-01"]


def test_tokens_from_files(run: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("tx2-01 0123456789abcdef01\n")
    (tmp_path / "good").write_text("0123456789abcdef01\n")
    (tmp_path / "bad").write_text("0123456789abcdef02\n")
    with server("--tokens", tmp_path / "tokens") as (announced, _):
        remote = ("infer", FLEET, picture, "--server", f"127.0.0.1:{announced['port']}")
        assert "a.jpg: " in run(*remote, "--token-file", tmp_path / "good")
        assert "does not know the token" in run(*remote, "--token-file", tmp_path / "bad", code=1)
        assert "asks for a token" in run(*remote, code=1)


def test_a_fleet_that_is_replaced_is_served_after_sighup(run: Run, picture: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    shutil.copytree(FLEET / "rb1", fleet / "rb1")
    with server(fleet=fleet) as (announced, lines):
        remote = ("infer", FLEET, picture, "--server", f"127.0.0.1:{announced['port']}", "--split")
        assert "does not serve tiny-rb2" in run(*remote, "rb2", code=1)
        (fleet / "rb3").mkdir()
        (fleet / "rb3/bundle.json").write_text("{")
        os.kill(announced["pid"], signal.SIGHUP)
        wait_for(lines, "reload failed, everything stays as it was")
        assert "a.jpg: " in run(*remote, "rb1")
        shutil.rmtree(fleet / "rb3")
        shutil.copytree(FLEET / "rb2", fleet / "rb2")
        os.kill(announced["pid"], signal.SIGHUP)
        wait_for(lines, "reloaded, serving tiny-rb1, tiny-rb2")
        assert "a.jpg: " in run(*remote, "rb2")


@pytest.mark.parametrize("setup", [["--local"], ["--mobile-only"], []])
def test_engines_run_the_head_or_all_of_it(run: Run, picture: Path, tmp_path: Path, setup: list[str]) -> None:
    manifest = FLEET / "rb1" / "bundle.json"
    for part in ("head", "tail", "baseline"):
        path = tmp_path / f"tiny-rb1-{part}-cpu.onnx"
        shutil.copy(FLEET / "rb1" / f"{part}.onnx", path)
        sidecar = {
            "format": "bottlekit-engine",
            "version": 1,
            "bundle": {"name": "tiny-rb1", "sha256": sha256_of_file(str(manifest))},
            "part": part,
            "target": "cpu",
            "kind": "onnxruntime",
            "precision": "fp32",
            "key": {},
            "engine_sha256": sha256_of_file(str(path)),
            "engine_bytes": path.stat().st_size,
            "golden": {"compared": True, "max_abs": 0.0},
        }
        write_json(f"{path}.json", sidecar)
    arguments = ["infer", FLEET, picture, "--split", "rb1", *setup, "--json"]
    with server() as (announced, _):
        if not setup:
            arguments += ["--server", f"127.0.0.1:{announced['port']}"]
        plain = json.loads(run(*arguments))
        built = json.loads(run(*arguments, "--engines", tmp_path, "--target", "cpu"))
    assert built["images"][0]["top"] == plain["images"][0]["top"]
    missing = run(*arguments, "--engines", tmp_path / "none", "--target", "cpu", code=1)
    assert "none" in missing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-batch", "0"], "--max-batch must be 1 to 1024"),
        (["--max-wait-ms", "-1"], "--max-wait-ms must be 0 to"),
        (["--max-wait-ms", "nan"], "--max-wait-ms must be 0 to"),
        (["--queue", "0"], "--queue must be 1 to"),
        (["--max-clients", "0"], "--max-clients must be"),
        (["--max-per-client", "-1"], "--max-per-client must be"),
        (["--rate", "-1"], "--rate must be"),
        (["--http", "nowhere"], "--http must be HOST:PORT"),
        (["--http", "0.0.0.0:0"], "--http 0.0.0.0 is open to other machines"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is open to other machines"),
        (["--tls", "nothing"], "nothing lacks ca.pem"),
        (["--tokens", "nothing"], "the tokens in nothing cannot be read"),
    ],
)
def test_serve_refuses_what_cannot_be(run: Run, options: list[str], said: str) -> None:
    assert said in run("serve", FLEET, "--port", 0, *options, code=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--local", "--engines", "e"], "--engines and --target go together"),
        (["--local", "--tls", "x"], "--tls and --token-file are for a server"),
        (["--mobile-only", "--token-file", "x"], "--tls and --token-file are for a server"),
        (["--server", "localhost:1", "--server-name", "x"], "give --tls FOLDER as well"),
        (["--server", "localhost:1", "--tls", "nothing"], "nothing lacks ca.pem"),
        (["--server", "localhost:1", "--token-file", "nothing"], "the tokens in nothing cannot be read"),
    ],
)
def test_infer_refuses_what_cannot_be(run: Run, picture: Path, options: list[str], said: str) -> None:
    assert said in run("infer", FLEET, picture, *options, code=2)


def test_certs_refuse_what_cannot_be(run: Run, pki: Path, tmp_path: Path) -> None:
    assert "exists already" in run("certs", "init", pki, code=2)
    assert "no certificate authority" in run("certs", "device", tmp_path / "none", "x", code=2)
    assert "has a certificate already" in run("certs", "device", pki, "tx2-01", code=2)
    assert "there are: lab, tx2-01" in run("certs", "revoke", pki, "nobody", code=2)


def test_top_refuses_what_cannot_be(run: Run) -> None:
    assert "--every must be" in run("top", "--every", "0", code=2)
    assert "must be HOST:PORT" in run("top", "nowhere", code=2)
