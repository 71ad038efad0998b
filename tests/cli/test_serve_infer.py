"""`bottlekit serve` and `bottlekit infer` as a user runs them: processes, sockets, files, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device import ort_runner
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.errors import WireError
from bottlekit.device.images import image_from_file, input_from_image, jpeg_from_image
from bottlekit.device.pipeline import local_split_from_bundle

sys.path.insert(0, str(Path(__file__).parent))
from typed import ENVIRONMENT, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLEET = Path(__file__).parent.parent / "data" / "tiny_fleet"


def error_line(*arguments: object, code: int) -> str:
    """The one line of an error."""
    done = typed(*arguments, code=code)
    lines = [line for line in done.stderr.splitlines() if line.startswith("bottlekit: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of an error, from the same code run in this process: for many ways of asking wrongly."""

    def run(*arguments: object, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["bottlekit", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        capsys.readouterr()
        assert common.run(app) == code
        out, err = capsys.readouterr()
        assert out == ""
        lines = [line for line in err.splitlines() if line.startswith("bottlekit: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


@contextlib.contextmanager
def server(*options: object, fleet: Path = FLEET) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """(what a server process announced, the process), ended by SIGTERM if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", "serve", str(fleet), "--port", "0", "--json", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=60)[1]
        yield json.loads(line), process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Any]]:
    with server() as (announced, _):
        yield announced


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images in two formats and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    random = np.random.default_rng(3)
    for name in ("a.jpg", "b.png", "more/c.PNG"):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def address(announced: dict[str, Any]) -> str:
    return f"{announced['host']}:{announced['port']}"


# ---- what goes well


def test_the_announcement_says_all_that_a_script_needs(running: dict[str, Any]) -> None:
    assert set(running) == {"host", "port", "pid", "bundles"}
    assert running["host"] == "127.0.0.1"
    os.kill(running["pid"], 0)
    fleet = fleet_from_path(str(FLEET))
    assert running["bundles"] == [
        {"name": bundle.name, "split": bundle.split["name"], "sha256": bundle.sha256} for bundle in fleet
    ]


@pytest.mark.parametrize("split", ["rb1", "rb2"])
def test_remote_equals_local_in_separate_processes(running: dict[str, Any], pictures: Path, split: str) -> None:
    bundle = next(one for one in fleet_from_path(str(FLEET)) if one.split["name"] == split)
    paths = [pictures / "a.jpg", pictures / "b.png"]
    with local_split_from_bundle(bundle) as local, SplitClient(bundle, running["host"], running["port"]) as client:
        assert running["pid"] != os.getpid()
        for path in paths:
            pixels = image_from_file(str(path))
            expected = local.infer(input_from_image(pixels, bundle.preprocessing)[None])
            assert client.infer_image(pixels).logits.tobytes() == expected.logits.tobytes()
            for where in (["--server", address(running)], ["--local"]):
                done = typed("infer", FLEET, path, "--split", split, "--json", *where)
                logits = {one["index"]: one["logit"] for one in json.loads(done.stdout)["images"][0]["top"]}
                assert [logits[index] for index in range(5)] == expected.logits.tolist()


def test_image_files_in_class_names_out(running: dict[str, Any], pictures: Path) -> None:
    remote = json.loads(typed("infer", FLEET, pictures, "--server", address(running), "--json").stdout)
    local = json.loads(typed("infer", FLEET, pictures, "--local", "--json").stdout)
    assert remote["setup"] == "collaborative"
    assert local["setup"] == "local"
    assert remote["server"] == address(running)
    assert local["server"] is None
    assert remote["bundle"] == local["bundle"] == running["bundles"][0]
    names = [Path(one["image"]).name for one in remote["images"]]
    assert names == ["a.jpg", "b.png", "c.PNG"]
    classes = fleet_from_path(str(FLEET))[0].classes
    for there, here in zip(remote["images"], local["images"], strict=True):
        for field in ("image", "class", "class_index", "top", "payload_bytes"):
            assert there[field] == here[field]
        assert there["class"] == classes[there["class_index"]]
        assert len(there["top"]) == 5
        assert set(there["times_ms"]) == {"head", "encode", "round_trip", "queue", "decode", "tail"}
        assert set(here["times_ms"]) == {"head", "encode", "decode", "tail"}
        assert there["framed_bytes"] == there["payload_bytes"] + 21
        assert "framed_bytes" not in here


def test_the_setups_and_splits_are_told_apart(running: dict[str, Any], pictures: Path) -> None:
    image = pictures / "a.jpg"
    cloud = json.loads(
        typed("infer", FLEET, image, "--cloud-only", "--server", address(running), "--json", "--top", 2).stdout
    )
    mobile = json.loads(typed("infer", FLEET, image, "--mobile-only", "--json", "--top", 2).stdout)
    assert (cloud["setup"], mobile["setup"]) == ("cloud-only", "mobile-only")
    assert cloud["images"][0]["top"] == mobile["images"][0]["top"]
    assert len(cloud["images"][0]["top"]) == 2
    assert cloud["images"][0]["payload_bytes"] == image.stat().st_size
    assert set(cloud["images"][0]["times_ms"]) == {"round_trip", "queue", "decode", "baseline"}
    assert set(mobile["images"][0]["times_ms"]) == {"baseline"}
    full = json.loads(typed("infer", FLEET, image, "--mobile-only", "--json", "--split", "rb2").stdout)
    assert set(full["images"][0]["times_ms"]) == {"full"}
    assert full["bundle"]["split"] == "rb2"


def test_a_png_goes_to_the_cloud_as_jpeg(running: dict[str, Any], pictures: Path) -> None:
    image = pictures / "b.png"
    done = typed("infer", FLEET, image, "--cloud-only", "--server", address(running), "--json")
    sent = json.loads(done.stdout)["images"][0]["payload_bytes"]
    assert sent == len(jpeg_from_image(image_from_file(str(image)), 90)) != image.stat().st_size


def test_people_read_the_class_the_time_and_the_bytes(running: dict[str, Any], pictures: Path) -> None:
    done = typed("infer", FLEET, pictures / "a.jpg", "--server", address(running), "--split", "rb1")
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{pictures / 'a.jpg'}: ")
    assert first.split(": ")[1] in fleet_from_path(str(FLEET))[0].classes
    assert "round trip" in rest[1]
    assert "(server: queue" in rest[1]
    assert "sent with framing" in rest[2]
    assert done.stderr == ""


@pytest.mark.parametrize("setup", ["--local", "--mobile-only"])
@pytest.mark.parametrize("asked", [[], ["--threads", "1"]])
def test_the_networks_get_as_many_threads_as_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, setup: str, asked: list[str]
) -> None:
    given, options = [], ort_runner.session_options

    def spy(threads: int | None = None, spin: bool = True) -> Any:
        given.append(threads)
        return options(threads, spin)

    monkeypatch.setattr(ort_runner, "session_options", spy)
    monkeypatch.setattr(
        sys, "argv", ["bottlekit", "infer", str(FLEET), str(pictures / "a.jpg"), setup, "--quiet", *asked]
    )
    monkeypatch.setattr(common, "_quiet", False)
    assert common.run(app) == 0
    assert given
    assert set(given) == {1 if asked else None}


def test_quiet_leaves_out_the_advice(pictures: Path) -> None:
    loud = typed("infer", FLEET, pictures / "a.jpg", "--local")
    assert "choose with --split" in loud.stderr
    assert typed("infer", FLEET, pictures / "a.jpg", "--local", "--quiet").stderr == ""


def test_a_single_bundle_is_a_fleet(pictures: Path) -> None:
    with server(fleet=FLEET / "rb2") as (announced, _):
        done = typed("infer", FLEET, pictures / "a.jpg", "--split", "rb2", "--server", address(announced))
        assert "a.jpg: " in done.stdout
        line = error_line("infer", FLEET, pictures / "a.jpg", "--server", address(announced), code=1)
        assert "does not serve tiny-rb1" in line
        assert "it serves: tiny-rb2" in line


# ---- ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    bundle = fleet_from_path(str(FLEET))[0]
    with server() as (announced, process), SplitClient(bundle, announced["host"], announced["port"]) as client:
        client.ping()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert out == ""
        assert err.splitlines() == [
            f"listening on {address(announced)}, serving tiny-rb1, tiny-rb2",
            "stopped",
        ]
        client._timeout_s = 1.0  # it goes on looking for so long
        with pytest.raises(WireError):
            client.ping()


def test_a_second_signal_ends_a_server_whose_tail_hangs() -> None:
    bundle = fleet_from_path(str(FLEET))[0]
    code = f"""
import time
from bottlekit.device import bundle, server, service
def hang(self, part, number, payloads):
    print("hangs", flush=True)
    time.sleep(600)
service.TailService.run = hang
with server.server_from_fleet(bundle.fleet_from_path({str(FLEET)!r}), port=0) as server:
    print(server.address[1], flush=True)
    server.run(until_signal=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        with SplitClient(bundle, "127.0.0.1", port, timeout_s=60) as client:
            client._timeout_s = 1.0  # for the answer; not for the hello, which a busy machine may give later
            with pytest.raises(WireError, match="did not answer infer"):
                client.infer_input(np.ones((1, 3, 8, 8), np.float32))
        assert process.stdout.readline() == "hangs\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_server_killed_between_requests_is_one_error_line_for_the_client(pictures: Path) -> None:
    bundle = fleet_from_path(str(FLEET))[0]
    image = np.zeros((1, 3, 8, 8), np.float32)
    with server() as (announced, process):
        with SplitClient(bundle, announced["host"], announced["port"], timeout_s=60) as client:
            client.infer_input(image)
            process.kill()
            process.wait(60)
            client._timeout_s = 1.0  # it goes on looking for so long
            with pytest.raises(WireError, match=f"no server answers at {address(announced)}"):
                client.infer_input(image)
        line = error_line("infer", FLEET, pictures / "a.jpg", "--server", address(announced), code=1)
        assert f"no server answers at {address(announced)}" in line
        assert f"bottlekit serve FLEET --host 127.0.0.1 --port {announced['port']}" in line


def test_a_server_stopped_during_a_request_runs_into_the_timeout(pictures: Path) -> None:
    with server() as (announced, process):
        process.send_signal(signal.SIGSTOP)
        try:
            line = error_line(
                "infer", FLEET, pictures / "a.jpg", "--server", address(announced), "--timeout", "0.5", code=1
            )
            assert "did not answer hello within 0.5 s" in line
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_server_survives_a_client_that_is_killed(running: dict[str, Any], pictures: Path) -> None:
    with socket.create_connection((running["host"], running["port"])) as connection:
        connection.sendall(b"\0\0\0\x20\x82\x21")
    typed("infer", FLEET, pictures / "a.jpg", "--server", address(running))


# ---- what is asked wrongly


def test_a_port_in_use_is_one_line(running: dict[str, Any]) -> None:
    line = error_line("serve", FLEET, "--port", running["port"], code=1)
    assert f"127.0.0.1:{running['port']} is in use" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "65536"], "--port must be 0"),
        (["--port", "-1"], "--port must be 0"),
        (["--host", "host.invalid", "--port", "0"], "host.invalid"),
        (["--host", "203.0.113.9", "--port", "0"], "203.0.113.9"),
        (["--threads", "0", "--port", "0"], "--threads must be at least 1"),
        (["--engines", "."], "--engines and --target go together"),
        (["--target", "cpu"], "--engines and --target go together"),
    ],
)
def test_serve_refuses_what_cannot_be(refused: Callable[..., str], options: list[str], said: str) -> None:
    assert said in refused("serve", FLEET, *options, code=2)


def test_serve_needs_the_engines_it_was_told_to_use(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("serve", FLEET, "--port", 0, "--engines", tmp_path, "--target", "cpu", code=1)
    assert "no engine of tiny-rb1 for cpu" in line
    assert "bottlekit build" in line


@pytest.mark.parametrize(
    "text", ["localhost", "localhost:", ":9090", "localhost:0", "localhost:65536", "localhost:http", "h:-1", "h:٣"]
)
def test_a_server_that_is_no_address_is_a_usage_error(
    refused: Callable[..., str], pictures: Path, text: str
) -> None:
    line = refused("infer", FLEET, pictures / "a.jpg", "--server", text, code=2)
    assert "--server must be HOST:PORT" in line
    assert text in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--server HOST:PORT is missing"),
        (["--cloud-only"], "--server HOST:PORT is missing"),
        (["--local", "--server", "localhost:1"], "leave out --server"),
        (["--mobile-only", "--server", "localhost:1"], "leave out --server"),
        (["--local", "--cloud-only"], "choose one of --local, --cloud-only"),
        (["--local", "--split", "rb9"], "there are: rb1, rb2"),
        (["--local", "--top", "0"], "--top must be at least 1"),
        (["--local", "--threads", "0"], "--threads must be at least 1"),
        (["--server", "localhost:1", "--timeout", "0"], "--timeout must be more than 0"),
        (["--server", "localhost:1", "--timeout", "nan"], "--timeout must be more than 0"),
    ],
)
def test_infer_refuses_what_cannot_be(
    refused: Callable[..., str], pictures: Path, options: list[str], said: str
) -> None:
    assert said in refused("infer", FLEET, pictures / "a.jpg", *options, code=2)


def test_a_server_that_is_not_there_is_one_line(refused: Callable[..., str], pictures: Path) -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        line = refused("infer", FLEET, pictures / "a.jpg", "--server", f"127.0.0.1:{port}", code=1)
    assert f"no server answers at 127.0.0.1:{port}" in line


def test_bad_images_are_named(
    refused: Callable[..., str], running: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    truncated = tmp_path / "cut.jpg"
    truncated.write_bytes((pictures / "a.jpg").read_bytes()[:300])
    (tmp_path / "empty").mkdir()
    for path in (truncated, pictures / "notes.txt", tmp_path / "absent.png", tmp_path / "empty"):
        for options in (
            ["--local"],
            ["--server", address(running)],
            ["--server", address(running), "--cloud-only"],
        ):
            assert str(path) in refused("infer", FLEET, path, *options, code=1)


def test_a_bundle_that_was_changed_is_not_served_and_not_run(
    refused: Callable[..., str], pictures: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "fleet"
    shutil.copytree(FLEET, changed)
    with (changed / "rb2" / "tail.onnx").open("ab") as file:
        file.write(b"x")
    for arguments in (
        ["serve", changed, "--port", 0],
        ["infer", changed, pictures / "a.jpg", "--local"],
        ["infer", changed, pictures / "a.jpg", "--server", "localhost:1"],
    ):
        line = refused(*arguments, code=1)
        assert "tail.onnx was changed after export" in line


def test_another_export_of_the_bundle_is_refused(
    refused: Callable[..., str], running: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "fleet"
    shutil.copytree(FLEET, changed)
    manifest = json.loads((changed / "rb1" / "bundle.json").read_text())
    manifest["command"] = "exported again"
    (changed / "rb1" / "bundle.json").write_text(json.dumps(manifest))
    line = refused("infer", changed, pictures / "a.jpg", "--server", address(running), code=1)
    assert "another export of tiny-rb1" in line


def test_a_folder_without_bundles_is_one_line(refused: Callable[..., str], pictures: Path) -> None:
    assert "no bundle.json" in refused("serve", pictures, "--port", 0, code=1)
    assert "no bundle.json" in refused("infer", pictures, pictures / "a.jpg", "--local", code=1)
