import json
import os
import platform
import socket

import numpy as np
import pytest

from bottlekit.device import environment as module
from bottlekit.device.environment import cpu_model, environment, version_of


def test_it_says_what_is_known_in_json_and_without_the_hosts_name():
    values = environment(threads=2)
    assert values["machine"] == platform.machine()
    assert values["python"] == platform.python_version()
    assert values["numpy"] == np.__version__
    assert values["threads"] == 2
    assert 1 <= values["usable_cores"] <= values["cores"]
    assert socket.gethostname() not in json.dumps(values, allow_nan=False).split('"')


def test_the_hosts_name_is_given_when_asked_for():
    assert environment(include_hostname=True)["hostname"] == socket.gethostname()


def test_a_package_that_is_not_there_has_no_version():
    assert version_of("no-such-package-anywhere") is None


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t: fpu hypervisor\n", "Some CPU @ 2.00GHz"),
        ("processor\t: 0\nmodel name\t: ARMv8 Processor rev 3\nHardware\t: quill\n", "ARMv8 Processor rev 3"),
        ("processor\t: 0\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
    ],
)
def test_the_processor_is_read_from_what_its_kind_of_machine_says(tmp_path, monkeypatch, text, model):
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(module, "_CPUINFO", str(path))
    assert cpu_model() == model
    assert environment()["virtual"] is (True if "hypervisor" in text else None)


def test_frequency_scaling_is_read_where_there_is_any(tmp_path, monkeypatch):
    for core, governor in enumerate(["performance", "schedutil", "performance"]):
        folder = tmp_path / "cpu{}".format(core) / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    monkeypatch.setattr(module, "_CPUFREQ", str(tmp_path / "cpu*" / "cpufreq"))
    values = environment()
    assert values["governors"] == ["performance", "schedutil"]
    assert values["frequency_khz"] is None


def test_a_board_names_itself_with_a_zero_byte_at_the_end(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes(b"quill\0")
    monkeypatch.setattr(module, "_BOARD", str(path))
    assert environment()["board"] == "quill"


def test_a_system_that_tells_nothing_is_no_error(monkeypatch):
    nowhere = os.path.join(os.sep, "no", "such", "place")
    for name in ("_CPUINFO", "_CPUFREQ", "_BOARD", "_L4T", "_POWER_MODE", "_GPUS", "_NVIDIA_DRIVER"):
        monkeypatch.setattr(module, name, nowhere)
    values = environment()
    untold = ("board", "l4t", "virtual", "governors", "frequency_khz", "power_mode", "gpus", "nvidia_driver")
    assert [values[name] for name in untold] == [None] * len(untold)


def test_gpus_and_power_mode_are_read_from_their_drivers(tmp_path, monkeypatch):
    for bus, model in (("0000:01:00.0", "NVIDIA GeForce GTX 1080 Ti"), ("0000:02:00.0", "NVIDIA L4")):
        folder = tmp_path / bus
        folder.mkdir()
        (folder / "information").write_text("Model: \t\t {}\nIRQ:   \t\t 42\n".format(model))
    (tmp_path / "status").write_text("pmode:0003 fmode:quiet\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03\nGCC version: 9\n"
    )
    monkeypatch.setattr(module, "_GPUS", str(tmp_path / "*" / "information"))
    monkeypatch.setattr(module, "_POWER_MODE", str(tmp_path / "status"))
    monkeypatch.setattr(module, "_NVIDIA_DRIVER", str(tmp_path / "version"))
    values = environment()
    assert values["gpus"] == ["NVIDIA GeForce GTX 1080 Ti", "NVIDIA L4"]
    assert values["power_mode"] == "pmode:0003 fmode:quiet"
    assert values["nvidia_driver"] == "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03"
