"""Another machine over a real sshd."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottlekit.build.ssh import SshHost
from bottlekit.errors import TargetError, UsageError

sys.path.insert(0, str(Path(__file__).parent))
from sshd import Sshd


@pytest.fixture
def sshd(tmp_path):
    server = Sshd(tmp_path)
    server.start()
    yield server
    server.stop()


def host(sshd):
    return SshHost(sshd.host, sshd.options)


def test_a_command_runs_there_with_its_words_intact(sshd):
    words = ["printf", "%s|", "two words", "quo'te", '"$HOME"', "a;b", "*"]
    done = host(sshd).run(words)
    assert done.status == 0
    assert done.stdout == b'two words|quo\'te|"$HOME"|a;b|*|'


def test_its_exit_status_and_errors_come_back(sshd):
    done = host(sshd).run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.status, done.stdout) == (7, b"out\n")
    assert "err" in done.stderr


def test_lines_arrive_while_it_runs(sshd, tmp_path):
    arrived, heard = [], tmp_path / "heard"

    def hear(line):
        arrived.append(line)
        heard.touch()

    command = ["sh", "-c", 'echo first; while [ ! -e "$0" ]; do sleep 0.05; done; echo second', str(heard)]
    host(sshd).run(command, on_line=hear, timeout_s=60)
    assert arrived == ["first", "second"]


def test_files_travel_unchanged_both_ways(sshd, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "b.txt").write_text("b")
    folder = str(tmp_path / "far away" / "job")
    host(sshd).send({"graph.onnx": tmp_path / "a.bin", "job.json": tmp_path / "b.txt"}, folder)
    back = host(sshd).fetch(folder, ["graph.onnx", "job.json"])
    assert back == {"graph.onnx": content, "job.json": b"b"}


def test_a_file_that_is_not_there_is_said(sshd, tmp_path):
    with pytest.raises(TargetError, match=r"tx2: cannot read files there: .*nothing.plan"):
        host(sshd).fetch(str(tmp_path), ["nothing.plan"])


def test_a_wrong_host_key_is_refused_and_never_learned(sshd):
    sshd.trust("other_key")
    known = (sshd.folder / "known_hosts").read_text()
    with pytest.raises(TargetError, match=r"tx2: its host key is not the known one.*ssh tx2"):
        host(sshd).run(["true"])
    assert (sshd.folder / "known_hosts").read_text() == known


def test_an_unknown_host_is_refused_and_never_learned(sshd):
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(TargetError, match="host key"):
        host(sshd).run(["true"])
    assert (sshd.folder / "known_hosts").read_text() == ""


def test_a_key_that_is_not_authorised_is_refused(sshd):
    sshd.use_key("other_key")
    with pytest.raises(TargetError, match=r"refused every key; type: ssh-copy-id tx2"):
        host(sshd).run(["true"])


def test_nobody_listening_is_said(sshd):
    sshd.stop()
    with pytest.raises(TargetError, match=r"tx2: nothing listens for ssh there"):
        host(sshd).run(["true"])


def test_a_name_that_does_not_exist_is_said():
    with pytest.raises(TargetError, match=r"no-such-host.invalid: no such host"):
        SshHost("no-such-host.invalid").run(["true"])


@pytest.mark.parametrize("name", ["", "-oProxyCommand=touch /tmp/x", "two words"])
def test_what_is_no_host_never_reaches_ssh(name):
    with pytest.raises(UsageError, match="--host"):
        SshHost(name)


def test_a_command_that_hangs_ends_at_the_timeout(sshd):
    started = time.monotonic()
    with pytest.raises(TargetError, match="no end after 1 s of: sleep; raise --timeout"):
        host(sshd).run(["sleep", "600"], timeout_s=1)
    assert time.monotonic() - started < 300


def test_a_dropped_connection_is_said(sshd):
    command = ["sh", "-c", "echo here; sleep 600"]
    with pytest.raises(TargetError, match=r"tx2: .*(dropped|Connection)"):
        host(sshd).run(command, timeout_s=120, on_line=lambda line: sshd.drop_connections())


def test_a_full_disk_there_is_said(sshd, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        (tmp_path / "big").write_bytes(os.urandom(1_000_000))
        with pytest.raises(TargetError, match=r"tx2: cannot write files there: its disk is full"):
            host(sshd).send({"big": tmp_path / "big"}, str(small / "job"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
