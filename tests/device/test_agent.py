"""The agent as it is typed: JSON lines for programs, one line for people, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottlekit.device import agent
from bottlekit.device.children import child_environment
from bottlekit.device.engine import Engine
from bottlekit.device.files import read_json

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double
from jobs import JOB_FILES, RB1, files_of, make_job
from tensorrt_double import install_tensorrt


def environment(**changes):
    return child_environment(**dict({"OMP_NUM_THREADS": "1"}, **changes))


def start(*arguments, **changes):
    return subprocess.Popen(
        [sys.executable, "-m", "bottlekit.device.agent"] + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**changes),
    )


def run(*arguments, **changes):
    """(exit status, events, lines of standard error)"""
    process = start(*arguments, **changes)
    out, err = process.communicate(timeout=120)
    events = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    return process.returncode, events, err.decode("utf-8").splitlines()


def answer_of(*arguments, **changes):
    status, events, errors = run(*arguments, **changes)
    assert (status, errors) == (0, []), errors
    assert events[-1]["event"] == "answer"
    assert {event["event"] for event in events[:-1]} <= {"progress", "result", "begun", "measured"}
    return events[-1]["answer"]


def refused(*arguments, **changes):
    """(exit status, message) of a verb that must fail in one line, told on both streams."""
    status, events, errors = run(*arguments, **changes)
    assert events[-1]["event"] == "error"
    assert errors == ["bottlekit-agent: " + events[-1]["message"]]
    assert events[-1]["kind"].endswith("Error")
    return status, events[-1]["message"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """The tiny bundle's head and tail, built by the agent."""
    folder = tmp_path_factory.mktemp("agent")
    for part in ("head", "tail"):
        job = make_job(folder / part, part=part, kind="onnxruntime")
        answer_of("build", job, "-o", folder / "engines")
    return str(folder / "engines")


def test_facts_are_json():
    facts = answer_of("facts")
    assert facts["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert set(facts["tensorrt"]) == {"tensorrt", "tensorrt_rtx"}
    assert (facts["gpu"] is None) != (facts["why_no_gpu"] is None)
    assert facts["environment"]["cores"] >= 1


def test_facts_of_a_machine_with_tensorrt_and_a_gpu(tmp_path):
    compile_double(tmp_path)
    install_tensorrt(tmp_path / "modules", "8.2")
    facts = answer_of("facts", PYTHONPATH=str(tmp_path / "modules"), LD_LIBRARY_PATH=str(tmp_path))
    assert facts["tensorrt"]["tensorrt"] == "8.2.1.8"
    assert facts["gpu"]["name"] == "double of a GPU"
    assert facts["gpu"]["sm"] == "6.2"
    assert facts["gpu"]["runtime_version"] == "10.2"
    assert facts["why_no_gpu"] is None


def test_the_doctor_tells_what_it_looked_at():
    found = answer_of("doctor")
    assert [check["name"] for check in found["checks"]][:2] == ["Python", "numpy"]
    assert isinstance(found["complete"], bool)


def test_a_build_tells_its_progress_and_installs_the_engine(tmp_path):
    job = make_job(tmp_path / "job", kind="onnxruntime")
    status, events, errors = run("build", job, "-o", tmp_path / "engines")
    assert (status, errors) == (0, [])
    assert [event["event"] for event in events] == ["progress", "progress", "answer"]
    assert events[0]["message"].startswith("compiling the head of tiny-rb1 with onnxruntime")
    answer = events[-1]["answer"]
    engine = Engine.load(answer["installed"])
    assert engine.sha256 == answer["engine"]["sha256"]
    assert engine.golden_compared


def test_a_build_without_a_folder_for_engines_installs_nothing(tmp_path):
    job = make_job(tmp_path / "job", kind="onnxruntime")
    assert answer_of("build", job)["installed"] is None
    assert files_of(job) == sorted(JOB_FILES + ["build.log", "out/answer.json", "out/engine.onnx"])


def test_a_killed_compiler_is_one_line_and_leaves_nothing(tmp_path):
    compile_double(tmp_path)
    kill = "module.Builder.build_serialized_network = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    install_tensorrt(tmp_path / "modules", "8.2", hook=kill)
    job = make_job(tmp_path / "job")
    status, message = refused("build", job, PYTHONPATH=str(tmp_path / "modules"), LD_LIBRARY_PATH=str(tmp_path))
    assert status == 1
    assert "signal 9" in message
    assert "memory ran out; lower --workspace-mb" in message
    assert files_of(job) == sorted(JOB_FILES + ["build.log"])


def hanging(tmp_path):
    compile_double(tmp_path)
    hook = (
        "def wait(*_):\n"
        "    open({!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "module.Builder.build_serialized_network = wait\n"
    )
    install_tensorrt(tmp_path / "modules", "8.2", hook=hook.format(str(tmp_path / "pid")))
    variables = {"PYTHONPATH": str(tmp_path / "modules"), "LD_LIBRARY_PATH": str(tmp_path)}
    return make_job(tmp_path / "job"), variables


def wait_for(condition):
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to pass")


def running(pid):
    try:
        return Path("/proc/{}/stat".format(pid)).read_text().split()[2] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_agent_and_its_build(tmp_path, number):
    job, variables = hanging(tmp_path)
    process = start("build", job, **variables)
    pid_file = tmp_path / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == 128 + number
    wait_for(lambda: not running(int(pid_file.read_text())))
    assert files_of(job) == sorted(JOB_FILES + ["build.log"])
    assert [name for name in os.listdir(job) if name.startswith(".")] == []


def test_nobody_listening_does_not_end_a_build(tmp_path):
    job = make_job(tmp_path / "job", kind="onnxruntime")
    process = start("build", job)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert "out/answer.json" in files_of(job)
    # Whoever comes back finds it done.
    assert run("build", job)[1][0] == {"event": "progress", "message": "built already; nothing to do"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the following arguments are required: VERB"),
        (("make",), "invalid choice: 'make'"),
        (("build",), "JOB"),
        (("build", "x", "--timeout", "soon"), "invalid float value: 'soon'"),
        (("build", "x", "--timeout", "0"), "--timeout must be more than 0 seconds, not 0"),
        (("build", "x", "--timeout", "nan"), "--timeout must be more than 0 seconds, not nan"),
        (("bench", RB1, "--target", "double", "--samples", "2"), "--samples must be at least 5, not 2"),
        (("infer", RB1, "x.jpg", "--server", "nowhere"), "--server must be HOST:PORT"),
        (("infer", RB1, "x.jpg", "--server", "a:1", "--engines", "e"), "--engines and --target belong together"),
        (("infer", RB1, "x.jpg", "--server", "a:1", "--top", "0"), "--top must be at least 1"),
        (("infer", RB1, "x.jpg", "--server", "a:1", "--timeout", "inf"), "--timeout must be more than 0"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, words):
    status, message = refused(*arguments)
    assert status == 2
    assert words in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "nothing"), "no build job at nothing/job.json"),
        (("compare", "nothing", "--target", "double"), "no bundle at nothing"),
        (("compare", RB1, "--target", "double", "--engines", "nothing"), "no engine of tiny-rb1 for double"),
        (("infer", str(Path(RB1).parent), "x.jpg", "--server", "a:1"), "holds the bundles tiny-rb1, tiny-rb2"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, words):
    status, message = refused(*arguments)
    assert status == 1
    assert words in message


def test_engines_are_compared(engines):
    compared = answer_of("compare", RB1, "--engines", engines, "--target", "double")["compared"]
    assert {part: report["compared"] for part, report in compared["tiny-rb1"].items()} == {
        "head": True,
        "tail": True,
    }
    only = answer_of("compare", RB1, "--engines", engines, "--target", "double", "--part", "tail")
    assert list(only["compared"]["tiny-rb1"]) == ["tail"]
    status, message = refused("compare", RB1, "--engines", engines, "--target", "double", "--part", "full")
    assert (status, message) == (2, "part 'full' does not exist; there are: head, tail")


def test_phases_are_measured_into_a_profile(engines, tmp_path):
    options = ("--engines", engines, "--target", "double", "--samples", "5", "--seconds", "0.1", "--warm-up", "0.1")
    answer = answer_of("bench", RB1, "-o", tmp_path / "profile.json", *options)
    profile = read_json(str(tmp_path / "profile.json"), "profile")
    assert answer["profile"] == str(tmp_path / "profile.json")
    (entry,) = profile["bundles"]
    # Every part with an engine here, and the codec.
    assert list(entry["phases"]) == ["head", "encode", "decode", "tail"]
    assert {name: phase["summary"] for name, phase in entry["phases"].items()} == answer["summaries"]["tiny-rb1"]
    assert profile["command"].startswith("bottlekit-agent bench ")
    assert profile["target"] == "double"
    printed = answer_of("bench", RB1, "--phase", "head", *options)
    assert list(printed["bundles"][0]["phases"]) == ["head"]


def test_a_device_needs_only_its_part_of_the_bundle(engines, tmp_path):
    for name in ("bundle.json", "golden.npz", "head.onnx"):
        (tmp_path / name).write_bytes(Path(RB1, name).read_bytes())
    compared = answer_of("compare", tmp_path, "--engines", engines, "--target", "double")["compared"]
    assert list(compared["tiny-rb1"]) == ["head"]


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    status, message = refused("infer", RB1, "x.jpg", "--server", "127.0.0.1:1")
    assert status == 1
    assert "no server answers at 127.0.0.1:1" in message


def test_a_numpy_that_kills_its_process_is_told(tmp_path):
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    for verb in (("facts",), ("compare", RB1, "--target", "double")):
        status, message = refused(*verb, PYTHONPATH=str(tmp_path))
        assert status == 1
        assert (
            message == "numpy does not work here: numpy 1.19.5 crashes on Jetson; type: pip3 install numpy==1.19.4"
        )


def test_the_doctor_works_without_numpy(tmp_path):
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    checks = {check["name"]: check for check in answer_of("doctor", PYTHONPATH=str(tmp_path))["checks"]}
    assert checks["numpy"]["state"] == "missing"
    assert checks["GPU"]["found"] == "not looked at: that needs numpy"


def test_help_lists_the_verbs():
    process = start("--help")
    out = process.communicate()[0].decode()
    assert process.returncode == 0
    for verb in ("facts", "doctor", "build", "compare", "bench", "meters", "infer"):
        assert verb in out
    assert (
        "--timeout"
        in subprocess.check_output(
            [sys.executable, "-m", "bottlekit.device.agent", "build", "--help"], env=environment()
        ).decode()
    )


def test_events_are_written_at_once_and_dropped_when_nobody_listens():
    reading, writing = os.pipe()
    teller = agent.Teller(writing)
    teller.say("one")
    assert json.loads(os.read(reading, 1000).decode()) == {"event": "progress", "message": "one"}
    os.close(reading)
    teller.say("two")
    teller.say("three")
    os.close(writing)
    teller.say("four")  # it does not even try
