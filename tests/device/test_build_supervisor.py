"""Builds that crash, hang, run out of memory, are killed, or are asked for twice: one clear line, nothing left."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bottlekit.device import build_supervisor
from bottlekit.device.build_answer import answer_from_folder, install_engine
from bottlekit.device.build_run import run_job
from bottlekit.device.build_supervisor import attempt_in_subprocess, build
from bottlekit.device.children import child_environment
from bottlekit.device.engine import Engine
from bottlekit.device.errors import BundleError, EngineError, TargetError, UsageError
from bottlekit.device.files import sha256_of_file

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double
from jobs import JOB_FILES, WORKSPACE_BYTES, files_of, make_job
from tensorrt_double import install_tensorrt

IN_BUILD = "module.Builder.build_serialized_network = lambda self, network, config: {}"


@pytest.fixture(scope="session")
def cudart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cudart")
    compile_double(folder)
    return str(folder)


@pytest.fixture
def tensorrt(cudart, tmp_path, monkeypatch):
    """A function that gives child processes a double of TensorRT, with a hook, and a double of CUDA."""

    def install(version="8.2", hook=""):
        install_tensorrt(tmp_path / "modules", version, hook=hook)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        monkeypatch.setenv("LD_LIBRARY_PATH", cudart)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")

    return install


def built(folder, timeout_s=120.0, attempt=None):
    said = []
    return build(folder, said.append, timeout_s, attempt), said


def refused(folder, words, kind=EngineError, timeout_s=120.0, attempt=None):
    """Build a job that must fail in one line; nothing but the raw log may be left of it."""
    said = []
    with pytest.raises(kind) as caught:
        build(folder, said.append, timeout_s, attempt)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [name for name in files_of(folder) if name != "build.log"] == JOB_FILES
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []
    return said


@pytest.mark.parametrize("version", ["8.2", "8.6", "10.16", "11.4", "rtx"])
def test_a_real_process_builds_on_every_version(tensorrt, tmp_path, version):
    tensorrt(version)
    kind = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    folder = make_job(tmp_path / "job", kind=kind, precision="typed" if version == "11.4" else "fp32")
    answer, said = built(folder)
    assert answer["golden"]["compared"]
    assert [line.split()[0] for line in said] == ["compiling", "compiled"]
    assert "INFO: Engine built" in (tmp_path / "job" / "build.log").read_text().splitlines()


def test_what_libraries_print_does_not_disturb(tensorrt, tmp_path):
    tensorrt(hook="print('{\"event\": \"answer\"}'); sys.stdout.flush(); os.system('echo noise')")
    folder = make_job(tmp_path / "job")
    _, said = built(folder)
    assert len(said) == 2
    assert "noise" in (tmp_path / "job" / "build.log").read_text()


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", ["signal 11", "TensorRT crashed", "build.log"]),
        ("os.kill(os.getpid(), signal.SIGILL)", ["signal 4", "numpy 1.19.5", "numpy==1.19.4"]),
        ("os._exit(3)", ["code 3", "see its log", "build.log"]),
        ("{}['nothing']", ["KeyError", "nothing"]),
        ("(_ for _ in ()).throw(MemoryError())", ["ran out of memory"]),
    ],
)
def test_a_process_that_dies_is_told_in_one_line(tensorrt, tmp_path, hook, words):
    tensorrt(hook=IN_BUILD.format(hook))
    refused(make_job(tmp_path / "job"), words)


def test_the_last_words_of_a_crash_are_told(tensorrt, tmp_path):
    hook = (
        "def crash(self, network, config):\n"
        "    text = 'Error Code 1: Cuda Driver (unspecified launch failure)'\n"
        "    self._logger.log(module.ILogger.Severity.ERROR, text)\n"
        "    os.kill(os.getpid(), signal.SIGABRT)\n"
        "module.Builder.build_serialized_network = crash\n"
    )
    tensorrt(hook=hook)
    refused(make_job(tmp_path / "job"), ["signal 6", "Cuda Driver (unspecified launch failure)"])


def test_a_process_killed_for_memory_is_tried_again_with_half_the_workspace(tensorrt, tmp_path):
    hook = (
        "build = module.Builder.build_serialized_network\n"
        "def kill_large(self, network, config):\n"
        "    if config.max_workspace_size > {}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return build(self, network, config)\n"
        "module.Builder.build_serialized_network = kill_large\n"
    )
    tensorrt(hook=hook.format(WORKSPACE_BYTES // 2))
    answer, said = built(make_job(tmp_path / "job"))
    assert answer["details"]["retried"] is True
    assert answer["details"]["workspace_bytes"] == WORKSPACE_BYTES // 2
    (again,) = [line for line in said if "once more" in line]
    assert "killed the build because memory ran out" in again
    assert "half the workspace, 128 MiB" in again


def test_tensorrt_out_of_memory_is_tried_again_with_half_the_workspace(tensorrt, tmp_path):
    tensorrt(hook="module.double.fail_above_bytes = {}".format(WORKSPACE_BYTES // 2))
    answer, said = built(make_job(tmp_path / "job"))
    assert answer["details"]["retried"] is True
    assert any("half the workspace, 128 MiB" in line for line in said)


def test_half_the_workspace_is_tried_once(tensorrt, tmp_path):
    tensorrt(hook="module.double.fail_above_bytes = {}".format(WORKSPACE_BYTES // 4))
    said = refused(make_job(tmp_path / "job"), ["ran out of memory", "--workspace-mb"])
    assert len([line for line in said if "once more" in line]) == 1


def test_other_failures_are_not_tried_again(tmp_path):
    tries = []

    def attempt(folder, halve, say, deadline):
        tries.append(halve)
        raise EngineError("No importer registered for op: Foo")

    refused(make_job(tmp_path / "job", kind="onnxruntime"), ["Foo"], attempt=attempt)
    assert tries == [False]


def test_a_job_without_a_workspace_is_not_tried_again(tmp_path):
    def attempt(folder, halve, say, deadline):
        raise EngineError("the machine ran out of memory")

    refused(make_job(tmp_path / "job", kind="onnxruntime"), ["ran out of memory"], attempt=attempt)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_build_that_hangs_is_stopped_with_what_it_started(tensorrt, tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"

    class Clock:
        """An hour goes by as soon as the build hangs."""

        sleep = time.sleep

        @staticmethod
        def monotonic():
            hangs = pid_file.exists() and pid_file.read_text()
            return time.monotonic() + (3600.0 if hangs else 0.0)

    monkeypatch.setattr(build_supervisor, "time", Clock)
    monkeypatch.setattr(build_supervisor, "_HEARTBEAT_S", 0.1)
    hook = "(open({!r}, 'w').write(str(__import__('subprocess').Popen(['sleep', '600']).pid)), time.sleep(600))"
    tensorrt(hook=IN_BUILD.format(hook.format(str(pid_file))))
    refused(make_job(tmp_path / "job"), ["did not end within 36", "--timeout"], timeout_s=600.0)
    wait_for(lambda: not running(int(pid_file.read_text())))


def running(pid):
    try:
        return Path("/proc/{}/stat".format(pid)).read_text().split()[2] not in ("Z", "X")
    except OSError:
        return False


def test_a_job_that_was_built_is_not_built_again(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    first, _ = built(folder)

    def never(folder, halve, say, deadline):
        raise AssertionError("it was built already")

    again, said = built(folder, attempt=never)
    assert again == first
    assert said == ["built already; nothing to do"]


@pytest.mark.parametrize("damage", ["engine.onnx", "answer.json", "job.json"])
def test_a_damaged_answer_is_built_again(tmp_path, damage):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    first, _ = built(folder)
    if damage == "job.json":
        path = tmp_path / "job" / damage
        path.write_text(path.read_text() + " ")
    else:
        path = tmp_path / "job" / "out" / damage
        path.write_bytes(path.read_bytes()[:-5])
    again, said = built(folder)
    assert said[-1].startswith("compiled in")
    assert again["engine"]["sha256"] == first["engine"]["sha256"]
    assert again["job_sha256"] == sha256_of_file(str(tmp_path / "job" / "job.json"))


def test_two_at_once_build_once(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    compiled, begun, said = [], threading.Event(), []

    def slow(folder, halve, say, deadline):
        begun.set()
        wait_for(lambda: said)
        compiled.append(run_job(folder, say))

    first = threading.Thread(target=built, args=(folder, 60.0, slow))
    first.start()
    assert begun.wait(60)
    answer = build(folder, said.append, 60.0, slow)
    first.join()
    assert compiled == [answer]
    # A stranger may build on this machine meanwhile.
    own = [line for line in said if "on this machine" not in line]
    assert own == ["another build of this job is running; waiting for it", "built already; nothing to do"]


def test_two_jobs_on_one_machine_take_turns(tmp_path):
    """TensorRT chooses its kernels by timing them: a build beside it would spoil that."""
    folders = [make_job(tmp_path / part, part=part, kind="onnxruntime") for part in ("head", "tail")]
    running, begun, said = [], threading.Event(), []

    def slow(folder, halve, say, deadline):
        running.append("begun")
        begun.set()
        wait_for(lambda: said)
        run_job(folder, say)
        running.append("ended")

    first = threading.Thread(target=built, args=(folders[0], 60.0, slow))
    first.start()
    assert begun.wait(60)
    build(folders[1], said.append, 60.0, slow)
    first.join()
    assert running == ["begun", "ended", "begun", "ended"]
    assert said[0] == "another build on this machine is running; waiting for it"


def test_waiting_for_another_build_ends(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    program = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1])\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, folder + "/job.json"], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        refused(folder, ["another build", "is still running"], kind=TargetError, timeout_s=0.5)
    finally:
        other.kill()
        other.communicate()


def test_no_job_is_one_line(tmp_path):
    with pytest.raises(BundleError, match="no build job at .*: the file does not exist"):
        build(str(tmp_path), print, 1.0)


def test_the_errors_of_the_process_are_those_of_its_code(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime", target="elsewhere", expects_tensorrt="9")
    refused(folder, ["elsewhere needs TensorRT 9"], kind=TargetError)
    document = json.loads((tmp_path / "job" / "job.json").read_text())
    document["compile"]["precision"] = "fp8"
    (tmp_path / "job" / "job.json").write_text(json.dumps(document))
    refused(folder, ["'fp8' does not exist; there are: typed, fp32, fp16, int8"], kind=UsageError)


def test_an_attempt_that_leaves_no_answer_is_an_error(tmp_path):
    refused(make_job(tmp_path / "job", kind="onnxruntime"), ["left no answer"], attempt=lambda *_: None)


def test_an_engine_is_installed_with_its_sidecar_and_its_log(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    answer, _ = built(folder)
    path = install_engine(folder, str(tmp_path / "engines"))
    engine = Engine.load(path)
    assert os.path.basename(path) == "tiny-rb1-head-double.onnx"
    assert (engine.part, engine.target, engine.kind, engine.precision) == ("head", "double", "onnxruntime", "fp32")
    assert engine.golden_compared
    assert engine.sidecar["key"] == answer["key"]
    assert engine.sidecar["command"] == "a test"
    assert engine.sidecar["details"]["machine"]["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert files_of(tmp_path / "engines") == sorted(os.path.basename(path) + end for end in ("", ".json", ".log"))


def test_what_was_not_built_is_not_installed(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    with pytest.raises(BundleError, match="no build answer at"):
        install_engine(folder, str(tmp_path / "engines"))
    built(folder)
    (tmp_path / "job" / "out" / "engine.onnx").write_bytes(b"half")
    with pytest.raises(BundleError, match="did not arrive whole"):
        install_engine(folder, str(tmp_path / "engines"))
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "something"}, "is no build answer of version 1"),
        ({"key": None}, "'key' is missing or bad"),
        ({"job_sha256": "0" * 64}, "answers another job"),
        ({"engine": {"file": "../../job.json", "sha256": "0" * 64}}, "is missing or did not arrive whole"),
    ],
)
def test_a_hostile_answer_is_refused(tmp_path, change, words):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    answer, _ = built(folder)
    (tmp_path / "job" / "out" / "answer.json").write_text(json.dumps(dict(answer, **change)))
    with pytest.raises(BundleError, match=words):
        answer_from_folder(str(tmp_path / "job" / "out"), answer["job_sha256"])


def test_the_supervisor_needs_no_numpy(tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy was imported')")
    environment = child_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    for module in ("agent", "build_supervisor", "doctor"):
        subprocess.check_call([sys.executable, "-c", "import bottlekit.device." + module], env=environment)


def test_an_attempt_that_is_interrupted_ends_its_process(tensorrt, tmp_path):
    tensorrt(hook=IN_BUILD.format("time.sleep(600)"))
    folder = make_job(tmp_path / "job")

    def interrupt(message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folder, interrupt, 60.0, attempt_in_subprocess)
    assert [name for name in files_of(folder) if name != "build.log"] == JOB_FILES
