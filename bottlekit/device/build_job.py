"""A build job: a folder that holds all that is needed to build one engine on another machine, and nothing more.

    job/
      job.json        what to build: part, precision, profiles, workspace, what the machine must be
      graph.onnx      what is compiled: the bundle's part, or what lowering made of it
      bundle.json     } what the engine's outputs are compared with
      golden.npz      }
      timing.cache    what an earlier build measured; not in every job

Building it (build_run.py) adds build.log, the raw log, and out/, which is whole or not there (build_answer.py).
A job may have travelled, so every file is compared with its hash before anything is compiled.
"""

import os
import shutil
from typing import Any, Dict, List, Optional, Tuple

from .build_answer import CACHE_FILE, GRAPH_FILE, JOB_FILE
from .bundle import CODEC_FILE, PARTS, Bundle
from .engine import SUFFIXES
from .errors import BundleError, UnknownNameError
from .fields import Fields
from .files import read_json, sha256_of_file, whole_folder, write_json
from .golden import TOLERANCES, Tolerance, tolerance_from_name
from .trt import PlanOptions, Profile

FORMAT = "bottlekit-build-job"
VERSION = 1
# What a builder can be told; "typed" takes the types that are in the graph.
PRECISIONS = ("typed", "fp32", "fp16", "int8")

_MAX_WORKSPACE_BYTES = 1 << 50
_MAX_SIZE = 1 << 31


class BuildJob:
    """A job that was read and checked. Make one with `BuildJob.load`.

    Attributes:
        folder: where it lies.
        document: the content of job.json.
        bundle: the bundle's description and golden arrays; it holds no graphs.
        part, target, kind: as in an engine's sidecar.
        options: what the compiler is told.
        tolerance: how the outputs are judged.
        plugin: the `path` and `sha256` of the plugin library that the graph needs; None for none.
        expects_tensorrt, expects_sm: the start of the version ("8.2") and the SM ("6.2"); None for any.
    """

    def __init__(self, folder: str, document: Dict[str, Any], bundle: Bundle) -> None:
        fields = Fields(document, os.path.join(folder, JOB_FILE))
        self.folder = folder
        self.document = document
        self.bundle = bundle
        self.part = _one_of(fields, "part", PARTS)
        self.target = fields.safe_name("target")
        self.kind = _one_of(fields, "kind", tuple(SUFFIXES))
        self.tolerance: Tolerance = tolerance_from_name(_one_of(fields, "tolerance", tuple(TOLERANCES)))
        expects = fields.object("expects")
        self.expects_tensorrt = _text_or_none(expects, "tensorrt")
        self.expects_sm = _text_or_none(expects, "sm")
        compile_ = fields.object("compile")
        self.options = PlanOptions(
            workspace_bytes=compile_.integer("workspace_bytes", 0, _MAX_WORKSPACE_BYTES),
            profiles=_profiles(compile_.object("profiles")),
            precision=_one_of(compile_, "precision", PRECISIONS),
            fp32_layers=tuple(compile_.texts("fp32_layers")),
            timing_cache=_content(os.path.join(folder, CACHE_FILE)) if CACHE_FILE in document["files"] else b"",
        )
        self.plugin: Optional[Fields] = None if document.get("plugin") is None else fields.object("plugin")
        bundle.onnx_sha256(self.part)  # It says so where the bundle has no such part.

    @classmethod
    def load(cls, folder: str) -> "BuildJob":
        """Read the job in `folder` and compare every file with its hash.

        Raises:
            BundleError: no job there, of another version, with a bad field, or with a file that is missing or was
                changed on the way.
        """
        folder = os.fspath(folder)
        where = os.path.join(folder, JOB_FILE)
        document = read_json(where, "build job")
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise BundleError(
                "{} is no build job of version {}: it says {} version {}; use the bottlekit that wrote it".format(
                    where, VERSION, document.get("format"), document.get("version")
                )
            )
        fields = Fields(document, where)
        files = fields.object("files")
        for name in files.values:
            _check_file(folder, name, files.sha256(name))
        bundle = Bundle.load(folder, parts=())
        asked = fields.object("bundle")
        if bundle.sha256 != asked.sha256("sha256"):
            raise BundleError("{} is of another bundle than its job; make the job again".format(bundle.path))
        if GRAPH_FILE not in files.values:
            raise BundleError("{} lists no {}; make the job again".format(where, GRAPH_FILE))
        return cls(folder, document, bundle)

    @property
    def graph_path(self) -> str:
        """What is compiled."""
        return os.path.join(self.folder, GRAPH_FILE)

    def key(self) -> Dict[str, Any]:
        """The engine's key, but for what the machine decides."""
        known = Fields(self.document, os.path.join(self.folder, JOB_FILE)).object("key").values
        return dict(known) if self.kind == "onnxruntime" else dict(known, **compile_key(self.options))

    def input_name_and_shape(self) -> Tuple[str, Tuple[int, ...]]:
        """The name and the shape of one sample of the part's input: (c, h, w)."""
        if self.part == "tail":
            return "feature", tuple(self.bundle.feature_shape)
        return "image", tuple(self.bundle.input_shape[1:])

    def output_name_and_shape(self) -> Tuple[str, Tuple[int, ...]]:
        """The name and the shape of one sample of the part's output."""
        if self.part == "head":
            return "feature", tuple(self.bundle.feature_shape)
        return "logits", (len(self.bundle.classes),)


def compile_key(options: PlanOptions) -> Dict[str, Any]:
    """The part of an engine's key that the compiler's settings decide; which layers stay FP32, the graph does."""
    return {
        "workspace_bytes": options.workspace_bytes,
        "profiles": {
            name: [list(shape) for shape in profile] for name, profile in (options.profiles or {}).items()
        },
    }


def write_job(
    folder: str, document: Dict[str, Any], bundle_path: str, graph_path: str, timing_cache: Optional[str] = None
) -> None:
    """Write a job folder, whole: what `job_document` made, the graph, the bundle's golden values, a timing cache.

    UsageError where the folder exists already or cannot be written.
    """
    with whole_folder(folder) as temporary:
        shutil.copyfile(graph_path, os.path.join(temporary, GRAPH_FILE))
        for name in _files_of_bundle(bundle_path):
            shutil.copyfile(os.path.join(bundle_path, name), os.path.join(temporary, name))
        if timing_cache is not None:
            shutil.copyfile(timing_cache, os.path.join(temporary, CACHE_FILE))
        files = [name for name in (GRAPH_FILE, CACHE_FILE) if os.path.exists(os.path.join(temporary, name))]
        hashes = {name: sha256_of_file(os.path.join(temporary, name)) for name in files}
        write_json(os.path.join(temporary, JOB_FILE), dict(document, files=hashes))


def job_document(
    bundle: Bundle,
    part: str,
    target: str,
    kind: str,
    options: PlanOptions,
    tolerance: str,
    expects_tensorrt: Optional[str] = None,
    expects_sm: Optional[str] = None,
    key: Optional[Dict[str, Any]] = None,
    sidecar: Optional[Dict[str, Any]] = None,
    plugin: Optional[Dict[str, str]] = None,
) -> Dict[str, Any]:
    """The content of job.json, but for the files' hashes.

    `key` is what of the engine's key is known already; `sidecar` what goes into its sidecar as it is (precision,
    command, lowered); `plugin` the path and the SHA-256 of the plugin library that the graph needs.
    """
    document: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "bundle": {"name": bundle.name, "sha256": bundle.sha256},
        "part": part,
        "target": target,
        "kind": kind,
        "compile": dict(compile_key(options), precision=options.precision, fp32_layers=list(options.fp32_layers)),
        "tolerance": tolerance,
        "expects": {"tensorrt": expects_tensorrt, "sm": expects_sm},
        "key": key or {},
        "sidecar": sidecar or {},
    }
    if plugin is not None:
        document["plugin"] = plugin
    return document


def _check_file(folder: str, name: str, sha256: str) -> None:
    if name not in (GRAPH_FILE, CACHE_FILE):
        raise BundleError("{} lists the file {!r}, which no job has".format(os.path.join(folder, JOB_FILE), name))
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise BundleError("{} is missing from the build job {}; make the job again".format(name, folder))
    if sha256_of_file(path) != sha256:
        raise BundleError(
            "{} was changed after the job was made, or did not arrive whole; send it again".format(path)
        )


def _one_of(fields: Fields, name: str, known: Tuple[str, ...]) -> str:
    value = fields.text(name)
    if value not in known:
        raise UnknownNameError("{} in {}".format(name, fields.where), value, known)
    return value


def _text_or_none(fields: Fields, name: str) -> Optional[str]:
    return None if fields.any(name) is None else fields.text(name)


def _profiles(fields: Fields) -> Dict[str, Profile]:
    """The profiles of job.json: {input: [smallest, usual, largest]}."""
    profiles: Dict[str, Profile] = {}
    for name, bounds in fields.values.items():
        if not isinstance(bounds, list) or len(bounds) != 3 or not isinstance(bounds[0], list):
            raise fields.error(name, "three shapes")
        rank = len(bounds[0])
        rows = Fields({str(i): bound for i, bound in enumerate(bounds)}, fields.where, "profiles." + name)
        smallest, usual, largest = (tuple(rows.integers(str(i), rank, 1, _MAX_SIZE)) for i in range(3))
        if not all(low <= middle <= high for low, middle, high in zip(smallest, usual, largest)):
            raise fields.error(name, "three shapes, each at least as large as the one before")
        profiles[name] = (smallest, usual, largest)
    return profiles


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def files_of_job(folder: str) -> List[str]:
    """The names of the files that a job consists of, for whoever sends it."""
    document = read_json(os.path.join(folder, JOB_FILE), "build job")
    return [JOB_FILE] + _files_of_bundle(folder) + sorted(Fields(document, folder).object("files").values)


def _files_of_bundle(folder: str) -> List[str]:
    """What of the bundle in `folder` a job takes along: all but graphs, and the codec's tables if it has some."""
    has_tables = os.path.isfile(os.path.join(folder, CODEC_FILE))
    return ["bundle.json", "golden.npz"] + ([CODEC_FILE] if has_tables else [])
