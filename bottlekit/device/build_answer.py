"""The files of a build job, what a built one holds, and how an engine and its sidecar are made of it.

    job/out/
      engine.plan | engine.onnx    the engine, exactly as its compiler wrote it
      answer.json                  its key, the comparison with the golden outputs, what the compiler told
      timing.cache                 for the next build; not from every compiler

No numpy here: what supervises a build must work where numpy does not.
"""

import os
import shutil
from typing import Any, Dict, Optional

from .engine import SUFFIXES, engine_file_name, sidecar_document, sidecar_path
from .errors import BottlekitError, BundleError
from .fields import Fields
from .files import read_json, sha256_of_file, whole_file, write_json

ANSWER_FORMAT = "bottlekit-build-answer"
ANSWER_VERSION = 1
JOB_FILE = "job.json"
GRAPH_FILE = "graph.onnx"
CACHE_FILE = "timing.cache"
LOG_FILE = "build.log"
OUT_FOLDER = "out"
ANSWER_FILE = "answer.json"

_FIELDS = {
    "job_sha256": str,
    "engine": dict,
    "key": dict,
    "build_ms": float,
    "golden": dict,
    "details": dict,
    "log": list,
}


def engine_file(kind: str) -> str:
    """The name of the engine in out/."""
    return "engine" + SUFFIXES[kind]


def answer_from_folder(out: str, job_sha256: str) -> Dict[str, Any]:
    """The answer in a folder out/, its engine compared with its hash; BundleError unless it is of that job."""
    where = os.path.join(os.fspath(out), ANSWER_FILE)
    answer = read_json(where, "build answer")
    if answer.get("format") != ANSWER_FORMAT or answer.get("version") != ANSWER_VERSION:
        raise BundleError("{} is no build answer of version {}; build again".format(where, ANSWER_VERSION))
    for name, kind in _FIELDS.items():
        if not isinstance(answer.get(name), kind):
            raise BundleError("{} is damaged: its field '{}' is missing or bad; build again".format(where, name))
    if answer["job_sha256"] != job_sha256:
        raise BundleError("{} answers another job; build again".format(where))
    files = {answer["engine"].get("file"): answer["engine"].get("sha256")}
    for name, sha256 in files.items():
        path = os.path.join(os.fspath(out), os.path.basename(str(name)))
        if not os.path.isfile(path) or sha256_of_file(path) != sha256:
            raise BundleError("{} is missing or did not arrive whole; fetch it again, or build again".format(path))
    return answer


def finished_answer(folder: str) -> Optional[Dict[str, Any]]:
    """The answer of a job that was built already; None if it was not, or its files were changed."""
    try:
        return answer_from_folder(os.path.join(folder, OUT_FOLDER), sha256_of_file(os.path.join(folder, JOB_FILE)))
    except (BottlekitError, OSError):
        return None


def install_engine(folder: str, engines_dir: str) -> str:
    """Copy the engine of a built job into a folder of engines, with its sidecar and its raw log; returns its path.

    BundleError for a job that was not built, or was damaged; UsageError where it cannot be written.
    """
    job_path = os.path.join(folder, JOB_FILE)
    out = os.path.join(folder, OUT_FOLDER)
    answer = answer_from_folder(out, sha256_of_file(job_path))
    job = Fields(read_json(job_path, "build job"), job_path)
    bundle, sidecar = job.object("bundle"), job.object("sidecar")
    name = bundle.safe_name("name")
    part, target, kind = job.safe_name("part"), job.safe_name("target"), job.safe_name("kind")
    path = os.path.join(engines_dir, engine_file_name(name, part, target, kind))
    built = os.path.join(out, engine_file(kind))
    document = sidecar_document(
        built,
        {"name": name, "sha256": bundle.sha256("sha256")},
        part,
        target,
        kind,
        sidecar.safe_name("precision"),
        answer["key"],
        answer["build_ms"],
        answer["golden"],
        answer["log"],
        sidecar.text("command"),
        sidecar.values.get("lowered"),
        answer["details"],
    )
    for source, copy in ((built, path), (os.path.join(folder, LOG_FILE), log_path(path))):
        with whole_file(copy) as temporary:
            shutil.copyfile(source, temporary)
    write_json(sidecar_path(path), document)
    return path


def log_path(engine_path: str) -> str:
    """Where the raw log of an engine's build lies."""
    return os.fspath(engine_path) + ".log"
