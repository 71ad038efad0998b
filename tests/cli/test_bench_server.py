"""`bottlekit bench --server`: sending and waiting, measured with a server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bottlekit.cli.bench_remote import measured_there
from bottlekit.device.bench import Effort
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.link_phases import LinkAccess
from bottlekit.device.power_options import PowerOptions

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
SHORT = ("--samples", "5", "--seconds", "5", "--warm-up", "0.02", "--threads", "1", "--quiet")
LINK = ("--phase", "transmit", "--phase", "wait")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """HOST:PORT of a server process with one bundle of the fleet, rb1."""
    with serving() as address:
        yield address


@contextlib.contextmanager
def serving(*options: object) -> Iterator[str]:
    words = ["serve", str(FLEET / "rb1"), "--port", "0", "--json", *map(str, options)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=60)[1]
        announced = json.loads(line)
        yield f"{announced['host']}:{announced['port']}"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()


def test_sending_and_waiting_stand_beside_the_other_phases_and_no_plan_looks_at_them(
    bottlekit: Any, engines: Path, server: str, tmp_path: Path
) -> None:
    out, csv = tmp_path / "p.json", tmp_path / "p.csv"
    words = ("--engines", engines, "-o", out, "--csv", csv, "--server", server, *SHORT)
    ran = bottlekit("bench", FLEET / "rb1", "--power", "--meter", "none", *words)
    assert ran.code == 0, ran.err
    profile = json.loads(out.read_text(encoding="utf-8"))
    (entry,) = profile["bundles"]
    names = ["head", "encode", "decode", "tail", "full", "baseline", "transmit", "wait"]
    assert list(entry["phases"]) == names
    assert [row.split(",")[0] for row in csv.read_text(encoding="utf-8").splitlines()] == ["phase", *names]
    for name in ("transmit", "wait"):
        phase = entry["phases"][name]
        assert (len(phase["samples_ms"]), phase["link"]["server"]) == (5, server)
        assert phase["energy"]["codes"] == ["no_meter"]
        assert name in ran.out

    def candidates() -> Any:
        ran = bottlekit("plan", out, "--link", "wifi", "--json", "-q")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)["ranking"]

    with_them = candidates()
    del entry["phases"]["transmit"], entry["phases"]["wait"]
    out.write_text(json.dumps(profile), encoding="utf-8")
    assert candidates() == with_them


def test_a_server_without_every_bundle_is_refused_before_anything_is_measured(
    bottlekit: Any, engines: Path, server: str, tmp_path: Path
) -> None:
    words = ("--engines", engines, "-o", tmp_path / "p.json", "--server", server, *SHORT, *LINK)
    line = bottlekit("bench", FLEET, *words).refused(code=1)
    assert f"{server} does not serve tiny-rb2" in line
    assert list(tmp_path.iterdir()) == []


def test_no_server_there_is_told_with_the_command_that_starts_one(
    bottlekit: Any, engines: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = ("--engines", engines, "-o", tmp_path / "p.json", "--server", f"127.0.0.1:{port}", *SHORT)
    line = bottlekit("bench", FLEET / "rb1", *words).refused(code=1)
    assert f"no server answers at 127.0.0.1:{port}" in line
    assert "bottlekit serve" in line


@pytest.mark.parametrize("phases", [None, ["wait"]])
def test_another_machine_is_told_the_server(engines: Path, phases: list[str] | None, tmp_path: Path) -> None:
    told: list[str] = []

    class Machine:
        """Takes down what it is asked for."""

        def bench(self, _work: object, _target: str, options: list[str], _keep: object) -> dict[str, object]:
            told.extend(options)
            return {}

    fleet = fleet_from_path(str(FLEET))
    power = PowerOptions(False, None, (), None, False, False)
    # Nobody listens there as seen from here, and nobody here looks.
    there: Any = Machine()
    access = LinkAccess("/etc/bottlekit/tx2-01", "lab")
    out = tmp_path / "profile.json"
    measured_there(there, fleet, engines, "cpu", phases, Effort(), None, power, True, "10.0.0.9:9090", access, out)
    assert told[told.index("--server") + 1] == "10.0.0.9:9090"
    assert told[told.index("--tls") + 1] == "/etc/bottlekit/tx2-01"
    assert told[told.index("--server-name") + 1] == "lab"
    assert "--token-file" not in told
    assert told.count("--phase") == len(phases or ())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (LINK, "transmit and wait need a server that has the bundle: give --server HOST:PORT"),
        (("--server", "localhost", *LINK), "--server must be HOST:PORT"),
        (("--tls", "pki"), "--tls, --server-name and --token-file are for a server"),
        (("--server", "localhost:1", "--server-name", "lab", *LINK), "give --tls FOLDER as well"),
        (("--emulate", "-t", "tx2", "--token-file", "token"), "--threads, --token-file has no meaning with it"),
        (("--server", "localhost:1", "--phase", "encode"), "--server is for the phases transmit and wait"),
        (("--server", "localhost:1", *LINK, "--phase", "send"), "there are: head, encode, decode, tail, full"),
    ],
)
def test_wrong_uses_are_refused_by_option(
    bottlekit: Any, engines: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    ran = bottlekit("bench", FLEET / "rb1", "--engines", engines, "-o", tmp_path / "p.json", *SHORT, *words)
    assert message in ran.refused(code=2)


@pytest.mark.slow
def test_a_server_that_asks_for_certificate_and_token_is_measured_with_them(
    bottlekit: Any, engines: Path, tmp_path: Path
) -> None:
    pki, out = tmp_path / "pki", tmp_path / "p.json"
    for words in (("init", pki), ("server", pki, "lab", "--host", "localhost"), ("device", pki, "tx2-01")):
        assert bottlekit("certs", *words).code == 0
    token, tokens = tmp_path / "token", tmp_path / "tokens"
    token.write_text("0123456789abcdef01\n", encoding="utf-8")
    tokens.write_text("tx2-01 0123456789abcdef01\n", encoding="utf-8")
    known = ("--tls", pki / "devices/tx2-01", "--server-name", "localhost", "--token-file", token)

    def agent(*words: object, code: int = 0) -> str:
        command = [sys.executable, "-m", "bottlekit.device.agent", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    with serving("--tls", pki / "servers/lab", "--tokens", tokens) as address:
        there = ("--engines", engines, "--server", address, *SHORT[:-1], *LINK)
        words = ("bench", FLEET / "rb1", "-o", out, *there, "--quiet")
        assert "want --tls" in bottlekit(*words).refused(code=1)
        assert "asks for a token" in bottlekit(*words, *known[:4]).refused(code=1)
        assert bottlekit(*words, *known).code == 0
        phases = json.loads(out.read_text(encoding="utf-8"))["bundles"][0]["phases"]
        assert [phases[name]["link"]["tls"] for name in ("transmit", "wait")] == [True, True]

        answer = json.loads(agent("bench", FLEET / "rb1", "--target", "cpu", *there, *known).splitlines()[-1])
        assert answer["answer"]["bundles"][0]["phases"]["wait"]["link"]["tls"] is True
        picture = tmp_path / "a.png"
        Image.new("RGB", (20, 30), (9, 99, 199)).save(picture)
        infer = ("infer", FLEET / "rb1", picture, "--server", address)
        assert json.loads(agent(*infer, *known).splitlines()[0])["event"] == "result"
        assert agent(*infer, code=1).count("\n") == 1
