"""TLS on the way to Triton, with a real tritonserver: who is believed, and one line that says why not."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bottlekit.build.agent_pack import pack_agent
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.journal import Journal
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.errors import ServerBusyError, UsageError
from bottlekit.serving import certs
from bottlekit.serving.triton_front import ForwardingServer
from bottlekit.serving.triton_repository import RepositoryOptions, repository_from_fleet
from bottlekit.serving.triton_tls import tls_from_folder, why_not_connected

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from servers import PATIENCE_S, in_a_thread, wait_until
from triton_server import Triton, triton_home, triton_running

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
BUNDLES = fleet_from_path(str(FLEET))[:1]
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)


class Pki(NamedTuple):
    """An authority, and the folders that front ends may have for --triton-tls."""

    folder: Path
    good: Path
    bare: Path
    stranger: Path
    doubting: Path
    expired: Path


def issued_long_ago(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, name: str, *hosts: str) -> Path:
    then = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(days=400)
    with monkeypatch.context() as patched:
        patched.setattr(certs, "_now", lambda: then)
        return certs.issue(folder, kind, name, hosts, days=30)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki") / "ours"
    other = folder.parent / "theirs"
    certs.init_authority(folder)
    certs.init_authority(other)
    certs.issue(folder, "server", "gpu", ("127.0.0.1",))
    good = certs.issue(folder, "device", "front")
    bare = folder.parent / "bare"
    bare.mkdir()
    shutil.copy(good / "ca.pem", bare)
    stranger = certs.issue(other, "device", "front")
    doubting = folder.parent / "doubting"
    shutil.copytree(stranger, doubting)
    shutil.copy(good / "ca.pem", stranger)  # it believes our Triton
    with pytest.MonkeyPatch.context() as patch:
        expired = issued_long_ago(patch, folder, "device", "old-front")
        issued_long_ago(patch, folder, "server", "old-gpu", "127.0.0.1")
    certs.issue(folder, "server", "elsewhere", ("elsewhere.example",))
    return Pki(folder, good, bare, stranger, doubting, expired)


@contextlib.contextmanager
def triton_with(certificate: Path, repository: Path, folder: Path, mutual: bool) -> Iterator[Triton]:
    """A real tritonserver that shows this certificate, and with `mutual` asks for one."""
    options = {
        "grpc-use-ssl": "true",
        "grpc-server-cert": certificate / "cert.pem",
        "grpc-server-key": certificate / "key.pem",
        "grpc-root-cert": certificate / "ca.pem",
    }
    if mutual:
        options["grpc-use-ssl-mutual"] = "true"
    with triton_running(triton_home(), repository, folder, more=options) as triton:
        yield triton


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "repository"
    options = RepositoryOptions(backend="python", decoders=1, threads=1, whole=False)
    repository_from_fleet(BUNDLES, path, pack_agent, options)
    return path


@pytest.fixture(scope="module")
def mutual(pki: Pki, repository: Path) -> Iterator[Triton]:
    with triton_with(pki.folder / "servers/gpu", repository, repository.parent, mutual=True) as triton:
        yield triton


@contextlib.contextmanager
def front(triton: Triton, tls: Path | None) -> Iterator[tuple[ForwardingServer, list[str]]]:
    lines: list[str] = []
    fleet = lambda: fleet_from_path(str(FLEET))[:1]  # noqa: E731
    journal = Journal(lines.append, lambda fields: None)
    server = ForwardingServer(BUNDLES, [triton.grpc], journal, tls_folder=tls, port=0, fleet=fleet)
    with server, in_a_thread(server):
        yield server, lines


def ask(server: ForwardingServer) -> np.ndarray:
    with SplitClient(BUNDLES[0], *server.address, timeout_s=PATIENCE_S) as client:
        logits: np.ndarray = client.infer_input(IMAGE).logits
        return logits


def check_answer(logits: np.ndarray) -> None:
    with local_split_from_bundle(BUNDLES[0], threads=1) as local:
        np.testing.assert_array_equal(logits, local.infer(IMAGE).logits)


def refused(triton: Triton, tls: Path | None) -> str:
    """The only line that is said of a Triton that cannot be used; a client is told BUSY, and no more."""
    with front(triton, tls) as (server, lines):
        wait_until(lambda: lines, "a line")
        with pytest.raises(ServerBusyError) as told:
            ask(server)
        assert "certificate" not in str(told.value)
        (line,) = lines
        assert line.startswith(f"Triton at {triton.grpc} is not there yet: it")
        assert "\n" not in line
        return line


@pytest.mark.slow
def test_mutual_tls_with_a_real_triton(mutual: Triton, pki: Pki) -> None:
    with front(mutual, pki.good) as (server, lines):
        check_answer(ask(server))
        assert any("is well" in line for line in lines)


@pytest.mark.slow
def test_who_cannot_prove_itself_is_told_what_lacks(mutual: Triton, pki: Pki) -> None:
    assert "asks for a certificate: there is no cert.pem" in refused(mutual, pki.bare)
    assert "cert.pem is of another CA than it believes, or expired" in refused(mutual, pki.stranger)
    assert "cert.pem is of another CA than it believes, or expired" in refused(mutual, pki.expired)
    assert "if it speaks TLS, ask it by grpcs://" in refused(mutual, None)


@pytest.mark.slow
def test_a_triton_of_another_authority_is_not_believed(mutual: Triton, pki: Pki) -> None:
    assert "its certificate is not believed (" in refused(mutual, pki.doubting)


@pytest.mark.slow
def test_a_triton_that_asks_for_nothing_needs_its_ca_alone(pki: Pki, repository: Path, tmp_path: Path) -> None:
    with triton_with(pki.folder / "servers/gpu", repository, tmp_path, mutual=False) as triton:
        with front(triton, pki.bare) as (server, _):
            check_answer(ask(server))
        assert "its certificate is not believed (" in refused(triton, pki.doubting)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("old-gpu", "its certificate is not believed (certificate has expired)"),
        ("elsewhere", "its certificate holds another name than the one that --triton asks it by"),
    ],
)
def test_an_expired_triton_and_one_of_another_name_are_not_believed(
    pki: Pki, repository: Path, tmp_path: Path, name: str, words: str
) -> None:
    with triton_with(pki.folder / "servers" / name, repository, tmp_path, mutual=True) as triton:
        assert words in refused(triton, pki.good)


@pytest.mark.slow
def test_a_reload_reads_the_certificates_again(mutual: Triton, pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(pki.stranger, folder)
    with front(mutual, folder) as (server, lines):
        wait_until(lambda: lines, "a line")
        for name in ("cert.pem", "key.pem"):
            shutil.copy(pki.good / name, folder)
        server.reload()
        wait_until(lambda: server.statistics.reloads == 1, "a reload")
        check_answer(ask(server))
        (folder / "key.pem").write_text("no key")
        server.reload()
        wait_until(lambda: any("reload failed" in line for line in lines), "a refusal")
        assert "certificates in" in lines[-1]
        check_answer(ask(server))


def test_a_folder_is_read_whole(pki: Pki, tmp_path: Path) -> None:
    whole = tls_from_folder(pki.good)
    assert whole.certificate == (pki.good / "cert.pem").read_bytes()
    assert tls_from_folder(pki.bare) == (whole.ca, None, None)
    assert tls_from_folder(pki.good) == whole


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "ca.pem").unlink(), "lacks ca.pem, the CA that signed Triton's certificate"),
        (
            lambda folder: (folder / "key.pem").unlink(),
            "lacks key.pem; Triton is shown both or none",
        ),
        (lambda folder: (folder / "cert.pem").unlink(), "has key.pem and lacks cert.pem"),
        (lambda folder: (folder / "ca.pem").write_text("no PEM"), "the certificates in .* cannot be used"),
        (lambda folder: (folder / "key.pem").write_text("no PEM"), "the certificates in .* cannot be used"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(pki: Pki, tmp_path: Path, spoil: Any, words: str) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(pki.good, folder)
    spoil(folder)
    with pytest.raises(UsageError, match=words):
        tls_from_folder(folder)


def test_a_key_of_another_certificate_is_refused(pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(pki.good, folder)
    shutil.copy(pki.stranger / "key.pem", folder)
    with pytest.raises(UsageError, match="KEY_VALUES_MISMATCH"):
        tls_from_folder(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: 127.0.0.1:1: Failed to connect "
            "to remote host: Connection refused",
            "nothing answers there (Connection refused)",
        ),
        (
            "UNAVAILABLE: connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:1: other words",
            "UNAVAILABLE: ipv4:127.0.0.1:1: other words",
        ),
        ("NOT_FOUND: other words", "NOT_FOUND: other words"),
        (
            "UNAVAILABLE: last error: Ssl handshake failed: WRONG_VERSION_NUMBER: OK",
            "it does not speak TLS; start it with --grpc-use-ssl, or ask it by grpc://",
        ),
    ],
)
def test_what_grpc_says_in_an_operators_words(words: str, told: str) -> None:
    assert why_not_connected(words, None) == told
