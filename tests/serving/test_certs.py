"""Certificates: who gets in with which, on real connections; and the authority's own files."""

from __future__ import annotations

import contextlib
import datetime
import os
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509

from bottlekit.device.access import Access
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.limits import ServerLimits
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.server import Server, server_from_fleet
from bottlekit.device.wire.tls import client_context
from bottlekit.errors import IdentityError, ServerBusyError, UnknownNameError, UsageError, WireError
from bottlekit.serving import certs

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
import servers
from python36 import python36_with_requirements
from servers import PATIENCE_S, wait_until

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)
# Nobody is ended for being slow, but where a test says so.
LIMITS = ServerLimits(handshake_s=PATIENCE_S, hello_s=PATIENCE_S)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    folder = tmp_path / "pki"
    certs.init_authority(folder)
    certs.issue(folder, "server", "lab", ("localhost", "127.0.0.1"))
    certs.issue(folder, "device", "tx2-01")
    certs.issue(folder, "device", "tx2-02")
    return folder


@contextlib.contextmanager
def serving(tls: Path | None, limits: ServerLimits = LIMITS, **options: Any) -> Iterator[tuple[Server, list[Any]]]:
    """(a server, its notes) with the server's certificate of this folder, on a free port, in a thread."""
    notes: list[dict[str, Any]] = []
    access = Access(str(tls)) if tls else Access(**options)
    bundles = fleet_from_path(str(FLEET))
    with servers.serving(bundles, limits=limits, access=access, note=notes.append) as server:
        yield server, notes


def client(server: Server, device: Path | None, host: str = "localhost", **options: Any) -> SplitClient:
    bundle = fleet_from_path(str(FLEET))[0]
    folder = str(device) if device else None
    return SplitClient(bundle, host, server.address[1], tls_folder=folder, timeout_s=PATIENCE_S, **options)


def refuses(server: Server, notes: list[dict[str, Any]], device: Path | None, because: str) -> None:
    """The device does not get in, quickly, and the log says why."""
    notes.clear()
    started = time.monotonic()
    with pytest.raises(WireError):
        client(server, device).__enter__()
    assert time.monotonic() - started < 30
    wait_until(lambda: any(because in note.get("reason", "") for note in notes), because)


# ---- who gets in


def test_remote_equals_local_over_tls_and_the_device_is_known_by_name(pki: Path) -> None:
    bundle = fleet_from_path(str(FLEET))[0]
    with serving(pki / "servers/lab") as (server, notes), local_split_from_bundle(bundle) as local:
        for host in ("localhost", "127.0.0.1"):
            with client(server, pki / "devices/tx2-01", host) as device:
                for _ in range(5):
                    assert device.infer_input(IMAGE).logits.tobytes() == local.infer(IMAGE).logits.tobytes()
                assert [one["name"] for one in server.statistics.snapshot()["clients"]] == ["tx2-01"]
    connected = [note for note in notes if note["event"] == "connected"]
    assert [note["client"] for note in connected] == ["tx2-01", "tx2-01"]


def test_a_device_of_another_authority_does_not_get_in(pki: Path, tmp_path: Path) -> None:
    certs.init_authority(tmp_path / "other")
    stranger = certs.issue(tmp_path / "other", "device", "tx2-01")
    (stranger / "ca.pem").write_bytes((pki / "ca.pem").read_bytes())  # it believes our server
    with serving(pki / "servers/lab") as (server, notes):
        refuses(server, notes, stranger, "unable to get local issuer certificate")


def test_a_server_of_another_authority_is_not_believed(pki: Path, tmp_path: Path) -> None:
    certs.init_authority(tmp_path / "other")
    stranger = certs.issue(tmp_path / "other", "server", "lab", ("localhost",))
    said = "both certificates must be of one CA"
    with serving(stranger) as (server, _), pytest.raises(IdentityError, match=said):
        client(server, pki / "devices/tx2-01").__enter__()


def test_a_server_of_another_name_is_not_believed_unless_it_is_named(pki: Path) -> None:
    elsewhere = certs.issue(pki, "server", "elsewhere", ("elsewhere.example",))
    with serving(elsewhere) as (server, _):
        with pytest.raises(IdentityError, match="mismatch"):
            client(server, pki / "devices/tx2-01").__enter__()
        with client(server, pki / "devices/tx2-01", server_name="elsewhere.example") as device:
            device.ping()


def expired(pki: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> Path:
    """A certificate that ran out long ago."""
    then = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(days=400)
    with monkeypatch.context() as patched:
        patched.setattr(certs, "_now", lambda: then)
        return certs.issue(pki, kind, name, ("localhost",), days=30)


def test_an_expired_device_does_not_get_in(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(pki / "servers/lab") as (server, notes):
        refuses(server, notes, expired(pki, monkeypatch, "device", "old"), "certificate has expired")


def test_an_expired_server_is_not_believed(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = expired(pki, monkeypatch, "server", "old")
    with serving(old) as (server, _), pytest.raises(IdentityError, match="expired"):
        client(server, pki / "devices/tx2-01").__enter__()


def test_a_servers_certificate_is_none_for_a_device_and_a_devices_none_for_a_server(pki: Path) -> None:
    with serving(pki / "servers/lab") as (server, notes):
        refuses(server, notes, pki / "servers/lab", "unsuitable certificate purpose")
    with serving(pki / "devices/tx2-02") as (server, _), pytest.raises(IdentityError, match="purpose"):
        client(server, pki / "devices/tx2-01").__enter__()


def test_a_revoked_device_does_not_get_in_and_is_put_out_where_it_is(pki: Path) -> None:
    with serving(pki / "servers/lab") as (server, notes):
        with (
            client(server, pki / "devices/tx2-01") as lost,
            client(server, pki / "devices/tx2-02") as good,
        ):
            lost.ping()
            good.ping()
            assert pki / "servers/lab/revoked.pem" in certs.revoke(pki, "tx2-01")
            lost.ping()  # nobody told the server yet
            server.reload()
            wait_for(notes, "reloaded")
            good.infer_input(IMAGE)  # connects again by itself
            lost._timeout_s = 1.0  # so does this one, again and again
            with pytest.raises(WireError):
                lost.ping()
        refuses(server, notes, pki / "devices/tx2-01", "certificate revoked")
        with client(server, pki / "devices/tx2-02") as good:
            good.ping()


def wait_for(notes: list[dict[str, Any]], event: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = wait_until(lambda: [note for note in notes if note["event"] == event], event)
    return found[0]


def test_a_name_can_be_given_again_after_it_was_revoked(pki: Path) -> None:
    certs.revoke(pki, "tx2-01")
    again = certs.issue(pki, "device", "tx2-01")
    with serving(pki / "servers/lab") as (server, _), client(server, again) as device:
        device.ping()


@pytest.mark.slow
def test_a_head_in_python_36_uses_the_same_certificates(pki: Path) -> None:
    python = python36_with_requirements()
    program = f"""
import sys
import numpy as np
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.errors import BottlekitError
image = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)
bundle = fleet_from_path({str(FLEET)!r})[0]
try:
    with SplitClient(bundle, "localhost", int(sys.argv[1]), tls_folder=sys.argv[2], timeout_s=10) as client:
        for _ in range(3):
            print(client.infer_input(image).logits.tobytes().hex())
except BottlekitError as error:
    print(type(error).__name__, error)
"""
    bundle = fleet_from_path(str(FLEET))[0]
    with serving(pki / "servers/lab") as (server, notes):

        def output(name: str) -> list[str]:
            words = [str(python), "-c", program, str(server.address[1]), str(pki / "devices" / name)]
            environment = {**os.environ, "PYTHONPATH": str(FLEET.parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300, check=True)
            return done.stdout.splitlines()

        with client(server, pki / "devices/tx2-02") as modern:
            expected = modern.infer_input(IMAGE)
        found = [np.frombuffer(bytes.fromhex(line), np.float32) for line in output("tx2-01")]
        assert len(found) == 3
        for logits in found:  # another ONNX Runtime runs the head: the payload may differ in a code
            assert np.allclose(logits, expected.logits, atol=0.05)
            assert int(logits.argmax()) == expected.class_index < len(bundle.classes)
        assert {note["client"] for note in notes if note["event"] == "connected"} == {"tx2-01", "tx2-02"}
        certs.revoke(pki, "tx2-01")
        server.reload()
        wait_for(notes, "reloaded")
        assert output("tx2-01")[0].split()[0] in ("IdentityError", "WireError", "ConnectionLost")


# ---- who is silent, and who speaks otherwise


def test_neither_side_speaks_to_one_without_tls(pki: Path) -> None:
    with serving(pki / "servers/lab") as (server, notes):
        refuses(server, notes, None, "no TLS")
    with serving(None) as (server, _), pytest.raises(WireError, match="does it serve with --tls"):
        client(server, pki / "devices/tx2-01").__enter__()


def handshakes_that_stand_still(server: Server, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Twenty peers that say nothing, and one that says half of a TLS hello."""
    made = [stack.enter_context(socket.create_connection(server.address, PATIENCE_S)) for _ in range(21)]
    made[-1].sendall(bytes.fromhex("16030100a5010000a1030300"))
    return made


def test_a_handshake_that_stands_still_delays_nobody(pki: Path) -> None:
    with serving(pki / "servers/lab") as (server, _), contextlib.ExitStack() as stack:
        silent = handshakes_that_stand_still(server, stack)
        wait_until(lambda: server.statistics.connections == len(silent))
        with client(server, pki / "devices/tx2-01") as device:
            device.ping()
            assert select.select(silent, [], [], 0)[0] == []  # all of them still stand there


def test_a_handshake_that_stands_still_ends(pki: Path) -> None:
    limits = LIMITS._replace(handshake_s=0.5)
    with serving(pki / "servers/lab", limits) as (server, _), contextlib.ExitStack() as stack:
        for one in handshakes_that_stand_still(server, stack):
            with contextlib.suppress(ConnectionError):
                assert one.recv(100) == b""


def test_silence_after_the_handshake_ends_too(pki: Path) -> None:
    context = client_context(str(pki / "devices/tx2-01"))
    with serving(pki / "servers/lab", LIMITS._replace(hello_s=0.5)) as (server, notes):
        plain = socket.create_connection(server.address, PATIENCE_S)
        with context.wrap_socket(plain, server_hostname="localhost") as silent:
            assert silent.recv(100) == b""
        assert "no hello in time" in wait_for(notes, "ended")["reason"]


def test_limits_are_by_device(pki: Path) -> None:
    limits = LIMITS._replace(connections_per_client=1, requests_per_s=0.001, burst_s=2000.0)
    with (
        serving(pki / "servers/lab", limits) as (server, _),
        client(server, pki / "devices/tx2-01") as first,
        client(server, pki / "devices/tx2-02") as second,
    ):
        with pytest.raises(ServerBusyError, match="tx2-01 is connected 1 times"):
            client(server, pki / "devices/tx2-01").__enter__()
        first.ping()
        first.ping()
        with pytest.raises(ServerBusyError, match=r"tx2-01 asks more than 0\.001 times a second"):
            first.ping()
        second.ping()


# ---- tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# who is who\n\ntx2-01 0123456789abcdef01\ntx2-02  fedcba987654321001\n")
    return path


def test_a_token_names_its_owner(tokens: Path) -> None:
    with serving(None, token_file=str(tokens)) as (server, notes):
        with client(server, None, token=b"fedcba987654321001") as device:
            device.infer_input(IMAGE)
        assert wait_for(notes, "connected")["client"] == "tx2-02"


@pytest.mark.parametrize("token", [None, b"", b"0123456789abcdef0", b"0123456789abcdef02", b"tx2-01", b"\xff" * 20])
def test_without_a_good_token_nobody_gets_in(tokens: Path, token: bytes | None) -> None:
    with serving(None, token_file=str(tokens)) as (server, notes):
        with pytest.raises(IdentityError, match="token"):
            client(server, None, token=token).__enter__()
        assert wait_for(notes, "refused")["code"] == "IDENTITY"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("tx2-01 short\n", "line 1: a token is one word of 16"),
        ("tx2-01\n", "line 1: a line is a name"),
        ("a 0123456789abcdef\nb 0123456789abcdef\n", "line 2: a has the same token"),
        ("../x 0123456789abcdef\n", "line 1: a line is a name"),
    ],
)
def test_a_file_of_tokens_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        Access(token_file=str(path))


# ---- where it may listen


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_nobody_listens_for_the_world_by_accident(host: str, pki: Path, tokens: Path) -> None:
    bundles = fleet_from_path(str(FLEET))
    with pytest.raises(UsageError, match=r"--tls FOLDER .* --tokens FILE .* --insecure"):
        server_from_fleet(bundles, host, 0).__enter__()
    with pytest.raises(UsageError, match="--http"):
        server_from_fleet(bundles, port=0, http=(host, 0)).__enter__()
    for options in (
        {"access": Access(str(pki / "servers/lab"))},
        {"access": Access(token_file=str(tokens))},
        {"insecure": True},
    ):
        with server_from_fleet(bundles, host, 0, **options) as server:
            assert server.address[0] == host


# ---- the authority's files


def test_keys_are_for_their_owner_only(pki: Path) -> None:
    keys = [*pki.rglob("*.key"), *pki.rglob("key.pem")]
    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert not list((pki / "devices").rglob("ca.key"))
    assert not list((pki / "servers").rglob("ca.key"))


def test_the_list_says_what_was_made(pki: Path) -> None:
    certs.revoke(pki, "tx2-02")
    made = certs.issued_certificates(pki)
    assert [(one["name"], one["kind"], bool(one["revoked"])) for one in made] == [
        ("lab", "server", False),
        ("tx2-01", "device", False),
        ("tx2-02", "device", True),
    ]
    certificate = x509.load_pem_x509_certificate((pki / "devices/tx2-01/cert.pem").read_bytes())
    assert f"{certificate.serial_number:x}" == made[1]["serial"]


WRONG: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda pki: certs.init_authority(pki), UsageError, "exists already"),
    (lambda pki: certs.issue(pki, "device", "tx2-01"), UsageError, "has a certificate already"),
    (lambda pki: certs.issue(pki, "device", "../x"), UsageError, "cannot be a name"),
    (lambda pki: certs.issue(pki, "device", "x", days=0), UsageError, "--days"),
    (lambda pki: certs.issue(pki, "server", "x", ("a" * 300,)), UsageError, "neither a name nor an address"),
    (lambda pki: certs.issue(pki / "devices", "device", "x"), UsageError, "no certificate authority"),
    (lambda pki: certs.revoke(pki, "nobody"), UnknownNameError, "there are: lab, tx2-01, tx2-02"),
]


@pytest.mark.parametrize(
    ("wrong", "error", "said"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_be_made_is_refused_and_changes_nothing(
    pki: Path, wrong: Callable[[Path], object], error: type[Exception], said: str
) -> None:
    before = {path: path.read_bytes() for path in pki.rglob("*") if path.is_file()}
    with pytest.raises(error, match=said):
        wrong(pki)
    assert {path: path.read_bytes() for path in pki.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_certificate_is_named(pki: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks ca.pem, cert.pem, key.pem"):
        Access(str(tmp_path))
    (pki / "servers/lab/key.pem").write_text("no key")
    with pytest.raises(UsageError, match="cannot be used"):
        Access(str(pki / "servers/lab"))
