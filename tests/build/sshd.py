"""A real sshd on loopback, as a process of its own, with its own keys, port and known hosts."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


class Sshd:
    """Keys, configuration and process of one server; `options` are what a client passes to ssh to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "tx2"
        binary = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if binary is None:
            reason = "no sshd on this machine; type: apt install openssh-server"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        self.binary = binary
        for name in ("host_key", "user_key", "other_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=60
            )
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.trust("host_key")
        self.use_key("user_key")
        self.process: subprocess.Popen[bytes] | None = None
        # A shell's lines before every command: where it runs, and what it finds there.
        self.profile = ""

    @property
    def options(self) -> tuple[str, str]:
        return "-F", str(self.folder / "ssh_config")

    def trust(self, key: str) -> None:
        """Make `key` what the client knows of the host."""
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    def use_key(self, key: str) -> None:
        """Make `key` what the client shows."""
        (self.folder / "ssh_config").write_text(
            f"Host {self.host}\n HostName 127.0.0.1\n Port {self.port}\n User {getpass.getuser()}\n"
            f" IdentityFile {self.folder / key}\n IdentitiesOnly yes\n IdentityAgent none\n"
            f" UserKnownHostsFile {self.folder / 'known_hosts'}\n GlobalKnownHostsFile /dev/null\n"
        )

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\nPidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f'ForceCommand {self.profile}eval "$SSH_ORIGINAL_COMMAND"\n'
        )
        command = [self.binary, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def cut_connections(self) -> None:
        """End what serves connections, as a broken link does; what was started there goes on."""
        assert self.process is not None
        subprocess.run(["pkill", "-KILL", "-P", str(self.process.pid)], check=False)

    def drop_connections(self) -> None:
        """Kill what serves connections and what was started there, and not the process that listens."""
        assert self.process is not None
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        for child in children.stdout.split():
            subprocess.run(["pkill", "-KILL", "-P", child], check=False)
            subprocess.run(["kill", "-KILL", child], check=False)

    def stop(self) -> None:
        if self.process is not None:
            self.drop_connections()
            self.process.terminate()
            self.process.wait(60)
            self.process = None
