"""The doctor on a laid-out TX2, and on this machine."""

import bottlekit.device.doctor as doctor
from bottlekit.device.doctor import MISSING, OK, WARNING, examine, l4t_release, report

RAILS = {
    "0-0040": ["VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"],
    "0-0041": ["VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"],
}


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def lay_out_tx2(root, mode=0, free_kib=6000000):
    write(
        root,
        "etc/nv_tegra_release",
        "# R32 (release), REVISION: 7.4, GCID: 33514132, BOARD: t186ref, EABI: aarch64\n",
    )
    write(root, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MAXP_CORE_ARM >\n")
    write(root, "var/lib/nvpmodel/status", "pmode:{:04d} fmode:fanNull\n".format(mode))
    write(root, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: {} kB\nSwapFree: 0 kB\n".format(free_kib))
    write(root, "run/jtop.sock", "")
    write(root, "usr/src/tensorrt/bin/trtexec", "#!/bin/sh\n")
    (root / "usr/src/tensorrt/bin/trtexec").chmod(0o755)
    for chip, names in RAILS.items():
        for number, name in enumerate(names):
            path = "sys/bus/i2c/drivers/ina3221x/{}/iio:device0/rail_name_{}".format(chip, number)
            write(root, path, name + "\n")
    return str(root)


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_tx2_is_read_as_one(tmp_path):
    checks = by_name(examine(lay_out_tx2(tmp_path)))
    assert checks["JetPack"].found == "L4T 32.7.4: JetPack 4.6.4 with TensorRT 8.2.1"
    assert checks["power mode"] == ("power mode", OK, "0 (MAXN)", "")
    assert checks["trtexec"].found == "/usr/src/tensorrt/bin/trtexec"
    assert checks["jtop service"].state == OK
    assert checks["power sensors"].found.split(", ") == sorted(name for names in RAILS.values() for name in names)
    assert checks["memory"].state == OK


def test_what_slows_or_stops_a_tx2_is_said_with_what_to_type(tmp_path):
    root = lay_out_tx2(tmp_path, mode=3, free_kib=500000)
    (tmp_path / "run/jtop.sock").unlink()
    checks = by_name(examine(root))
    assert checks["power mode"].state == WARNING
    assert checks["power mode"].found == "3 (MAXP_CORE_ARM)"
    assert "nvpmodel -m 0" in checks["power mode"].advice
    assert "jetson-stats" in checks["jtop service"].advice
    assert checks["memory"].state == WARNING
    assert "swap" in checks["memory"].advice


def test_numpy_1_19_5_is_found_out_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_version_in_child", lambda module: "1.19.5")
    check = by_name(examine(lay_out_tx2(tmp_path)))["numpy"]
    assert check.state == MISSING
    assert "numpy==1.19.4" in check.advice


def test_a_module_that_kills_its_process_is_missing(monkeypatch, tmp_path):
    (tmp_path / "deadly.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor._version_in_child("deadly") is None


def test_an_unreadable_release_file_is_no_crash(tmp_path):
    root = lay_out_tx2(tmp_path)
    write(tmp_path, "etc/nv_tegra_release", "who knows")
    assert l4t_release(root) is None
    assert by_name(examine(root))["JetPack"].state == WARNING


def test_this_machine_has_what_the_tests_run_on():
    checks = by_name(examine())
    assert checks["Python"].state == OK
    assert checks["numpy"].state == OK
    assert checks["onnxruntime"].state == OK


def test_the_report_is_complete_only_if_nothing_is_missing(monkeypatch):
    for states, complete in (((OK, WARNING), True), ((OK, MISSING), False)):
        checks = [doctor.Check("x", state, "found") for state in states]
        monkeypatch.setattr(doctor, "examine", lambda root, checks=checks: checks)
        assert report()["complete"] is complete


def a_library(folder, tensorrt):
    """A file with the name that a plugin library needs of TensorRT, at the library's usual place in a cache."""
    path = folder / "bottlekit" / "plugins" / "libbottlekit_plugins.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\0libcudart.so\0libnvinfer.so." + tensorrt + b"\0")
    return path


def test_the_plugin_library_and_its_tensorrt_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_version_in_child", lambda module: {"numpy": "1.19.4"}.get(module))
    path = a_library(tmp_path, b"8")
    check = by_name(examine())["plugin library"]
    assert check.state == OK
    assert check.found.startswith("{}, for TensorRT 8 (IPluginV2DynamicExt), SHA-256 ".format(path))
    a_library(tmp_path, b"10")
    assert "for TensorRT 10 (IPluginV3)" in by_name(examine())["plugin library"].found
    monkeypatch.setattr(doctor, "_version_in_child", lambda module: {"tensorrt": "8.2.1.8"}.get(module))
    check = by_name(examine())["plugin library"]
    assert check.state == WARNING
    assert check.advice.startswith("TensorRT here is 8.2.1.8; build it again: cmake -S plugins")


def test_what_quantises_on_the_gpu_and_is_missing_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("bottlekit.device.plugins.library_places", lambda: [str(tmp_path / "none.so")])
    monkeypatch.setattr("bottlekit.device.nvrtc.nvrtc_libraries", lambda: [str(tmp_path / "libnvrtc.so")])
    checks = by_name(examine())
    assert checks["plugin library"].state == checks["NVRTC"].state == WARNING
    assert "cmake -S plugins -B plugins/build" in checks["plugin library"].found
    assert "pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'" in checks["NVRTC"].found
