"""A double of trtexec for machines without TensorRT: a script that takes the flags of one version and no others.

    install_trtexec(folder, "8.2")  ->  the script's path

It "builds" by remembering the ONNX and runs it with ONNX Runtime, prints what trtexec prints, and writes outputs
as trtexec does: JSON with six digits. Which flags exist is recorded (tests/data/trtexec_flags.json). What it was
told is written next to it, one JSON list a call. TRTEXEC_DOUBLE=kill, fail, memory:MIB or nothing makes it fail.
"""

import json
import os
import signal
import sys
from pathlib import Path

BANNERS = {
    "8.2": "[TensorRT v8201]",
    "8.4": "[TensorRT v8402]",
    "8.6": "[TensorRT v8601]",
    "10.0": "[TensorRT v100001]",
    "10.16": "[TensorRT v101601] [b11]",
    "11.1": "[TensorRT v110100] [b106]",
}
FULL_VERSIONS = {
    "8.2": "8.2.1",
    "8.4": "8.4.2",
    "8.6": "8.6.1",
    "10.0": "10.0.1",
    "10.16": "10.16.1.11",
    "11.1": "11.1.0.106",
}
VERSIONS = tuple(BANNERS)
MAGIC = b"trtexec-double\n"
FLAGS = Path(__file__).parent.parent / "data" / "trtexec_flags.json"


def install_trtexec(folder, version):
    """Write the script into a folder; returns its path as str."""
    path = Path(folder) / "trtexec"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!{}\nimport sys\nsys.path.insert(0, {!r})\nfrom trtexec_double import main\n"
        "sys.exit(main({!r}, {!r}, sys.argv[1:]))\n".format(
            sys.executable, str(Path(__file__).parent), version, str(path)
        )
    )
    path.chmod(0o755)
    return str(path)


def calls_of(path):
    """The arguments of each call so far."""
    lines = Path(path + ".calls").read_text().splitlines()
    return [json.loads(line) for line in lines]


def say(severity, text):
    print("[11/21/2026-10:00:00] [{}] {}".format(severity, text), flush=True)


def main(version, path, arguments):
    print("&&&& RUNNING TensorRT.trtexec {} # trtexec {}".format(BANNERS[version], " ".join(arguments)), flush=True)
    if arguments == ["--help"]:
        print("=== Model Options ===\n  --onnx=<file>               ONNX model")
        return 0
    with open(path + ".calls", "a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    options = dict(argument[2:].partition("=")[::2] for argument in arguments)
    known = json.loads(FLAGS.read_text())[version]
    for name in options:
        if name not in known:
            say("E", "Unknown option: --{} {}".format(name, options[name]))
            return failed(version)
    if "loadEngine" in options:
        return run(version, options)
    return build(version, options)


def failed(version):
    print("&&&& FAILED TensorRT.trtexec {} # trtexec".format(BANNERS[version]), flush=True)
    return 1


def build(version, options):
    how = os.environ.get("TRTEXEC_DOUBLE", "")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    mib = int(options["workspace"] if "workspace" in options else options["memPoolSize"].partition(":")[2])
    if how == "fail":
        say("E", "Error Code 4: Internal Error (Network has dynamic or shape inputs, but no optimization profile)")
        return failed(version)
    if how.startswith("memory:") and mib > int(how.partition(":")[2]):
        say("W", "Tactic Device request: {}MB Available: 64MB. Device memory is insufficient.".format(mib))
        say("E", "Error Code 10: Internal Error (Could not find any implementation for node Conv_0.)")
        return failed(version)
    onnx = Path(options["onnx"]).read_bytes()
    if how == "nothing":
        return 0
    cache = Path(options["timingCacheFile"])
    cache.write_bytes((cache.read_bytes() if cache.exists() else b"tactics") + b"+")
    facts = {name: options[name] for name in options if name not in ("onnx", "saveEngine", "timingCacheFile")}
    Path(options["saveEngine"]).write_bytes(MAGIC + json.dumps(facts).encode() + b"\n" + onnx)
    say("I", "Engine built in 1.5 sec.")
    print("&&&& PASSED TensorRT.trtexec {} # trtexec".format(BANNERS[version]), flush=True)
    return 0


def run(version, options):
    import numpy as np
    import onnxruntime

    plan = Path(options["loadEngine"]).read_bytes()
    if not plan.startswith(MAGIC):
        say("E", "1: [stdArchiveReader.cpp::StdArchiveReader::30] Error Code 1: Serialization (magicTag)")
        return failed(version)
    facts, onnx = plan[len(MAGIC) :].split(b"\n", 1)
    dynamic = "minShapes" in json.loads(facts.decode())
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])
    (tensor,) = session.get_inputs()
    name, _, file = options["loadInputs"].partition(":")
    values = np.fromfile(file, dtype=np.float32)
    if not dynamic and "shapes" in options:
        say("E", "Static model does not take explicit shapes")
        return failed(version)
    shape = (
        [int(size) for size in options["shapes"].partition(":")[2].split("x")]
        if dynamic
        else [1] + list(tensor.shape[1:])
    )
    if os.environ.get("TRTEXEC_DOUBLE") == "wrong":
        values = values * np.float32(1.5)
    rows = []
    for output, array in zip(session.get_outputs(), session.run(None, {name: values.reshape(shape)})):
        numbers = ", ".join("{:.6g}".format(value) for value in array.reshape(-1))
        if os.environ.get("TRTEXEC_DOUBLE") == "nan":
            numbers = "-nan" + numbers[numbers.index(",") :]
        rows.append(
            '{{ "name" : "{}"\n  , "dimensions" : "{}"\n  , "values" : [ {} ]\n  }}\n'.format(
                output.name, "x".join(str(size) for size in array.shape), numbers
            )
        )
    if os.environ.get("TRTEXEC_DOUBLE") != "no outputs":
        Path(options["exportOutput"]).write_text("[\n  " + ", ".join(rows) + "]\n")
    print("&&&& PASSED TensorRT.trtexec {} # trtexec".format(BANNERS[version]), flush=True)
    return 0
