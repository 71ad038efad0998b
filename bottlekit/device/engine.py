"""Engines: what `bottlekit build` writes. A compiled file and a JSON sidecar that says what it is.

::

    engines/resnet18-rb1-head-cpu.onnx          the engine itself, exactly as its compiler wrote it
    engines/resnet18-rb1-head-cpu.onnx.json     its sidecar: bundle, part, target, key, hash, golden comparison

The sidecar lies next to the engine and never inside it: a prefix in a plan stops TensorRT from reading it.
"""

import os
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from .. import __version__
from .errors import BundleError, EngineError
from .files import read_json, sha256_of_file

if TYPE_CHECKING:
    from .bundle import Bundle

FORMAT = "bottlekit-engine"
VERSION = 1

# The file suffix of each kind of engine.
SUFFIXES = {"onnxruntime": ".onnx", "tensorrt_rtx": ".plan", "tensorrt": ".plan"}

_FIELDS = {
    "bundle": dict,
    "part": str,
    "target": str,
    "kind": str,
    "precision": str,
    "key": dict,
    "engine_sha256": str,
    "engine_bytes": int,
    "golden": dict,
}


class Engine:
    """One part of a bundle, compiled for one target.

    `path` the engine file, `sidecar` its JSON; `kind` says what runs it: onnxruntime, tensorrt_rtx, tensorrt.
    """

    def __init__(self, path: str, sidecar: Dict[str, Any]) -> None:
        self.path = path
        self.sidecar = sidecar
        self.part: str = sidecar["part"]
        self.target: str = sidecar["target"]
        self.kind: str = sidecar["kind"]
        self.precision: str = sidecar["precision"]
        self.bundle_name: str = sidecar["bundle"]["name"]
        self.bundle_sha256: str = sidecar["bundle"]["sha256"]
        self.sha256: str = sidecar["engine_sha256"]

    @classmethod
    def load(cls, path: str, verify: bool = True) -> "Engine":
        """Read an engine's sidecar and, with `verify`, compare the file with the hash that is in it.

        EngineError when either file is missing, is no engine, or was changed after the build.
        """
        path = os.fspath(path)
        sidecar = _read_sidecar(path)
        if not os.path.isfile(path):
            raise EngineError("no engine at {}: only its sidecar is there; build it again".format(path))
        if verify and sha256_of_file(path) != sidecar["engine_sha256"]:
            raise EngineError("{} is damaged: it is not the file that was built; build it again".format(path))
        return cls(path, sidecar)

    @property
    def has_plugin(self) -> bool:
        """Whether a node of the plugin library is in it: a head then gives codes, and a tail takes them."""
        return self.sidecar.get("key", {}).get("plugin") is not None

    @property
    def plugin_library(self) -> Optional[str]:
        """Where the plugin library lay that it was built with; None for an engine without a plugin."""
        machine = self.sidecar.get("details", {}).get("machine", {})
        library = machine.get("plugin_library") if self.has_plugin else None
        return None if library is None else str(library["path"])

    @property
    def golden_compared(self) -> bool:
        """Whether this engine's outputs were compared with the bundle's golden outputs, and were equal enough."""
        return self.sidecar["golden"].get("compared") is True

    @property
    def why_not_compared(self) -> Optional[str]:
        """Why the outputs were not compared; None when they were."""
        return None if self.golden_compared else str(self.sidecar["golden"].get("why_not"))


def sidecar_document(
    engine_path: str,
    bundle: Dict[str, str],
    part: str,
    target: str,
    kind: str,
    precision: str,
    key: Dict[str, Any],
    build_ms: float,
    golden: Dict[str, Any],
    log: Sequence[str],
    command: str,
    lowered: Optional[Dict[str, Any]] = None,
    details: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """The sidecar of the engine in the file `engine_path`, whatever that file will be called.

    `bundle` is {"name", "sha256"}; `lowered` the comparison of the lowered graph, where it was lowered; `details`
    what a compiler tells beside the engine.
    """
    document: Dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "bundle": bundle,
        "part": part,
        "target": target,
        "kind": kind,
        "precision": precision,
        "key": key,
        "engine_sha256": sha256_of_file(engine_path),
        "engine_bytes": os.path.getsize(engine_path),
        "build_ms": build_ms,
        "golden": golden,
    }
    for name, value in (("lowered", lowered), ("details", details)):
        if value is not None:
            document[name] = value
    document.update(log=list(log), command=command, bottlekit=__version__)
    return document


def engine_file_name(bundle_name: str, part: str, target: str, kind: str) -> str:
    """The name of an engine file: <bundle>-<part>-<target>, and the suffix of its kind."""
    return "{}-{}-{}{}".format(bundle_name, part, target, SUFFIXES[kind])


def sidecar_path(engine_path: str) -> str:
    """Where the sidecar of an engine file lies."""
    return os.fspath(engine_path) + ".json"


def engines_for_bundle(engines_dir: str, bundle: "Bundle", target: str) -> Dict[str, Engine]:
    """The engines in a folder that were built from this bundle for this target, by part.

    EngineError when there is none, or when one was built from another state of the bundle.
    """
    found = {}
    for part in bundle.parts:
        for suffix in sorted(set(SUFFIXES.values())):
            path = os.path.join(os.fspath(engines_dir), "{}-{}-{}{}".format(bundle.name, part, target, suffix))
            if not os.path.exists(sidecar_path(path)):
                continue
            engine = Engine.load(path)
            if engine.bundle_sha256 != bundle.sha256:
                raise EngineError(
                    "{} was built from another export of {}; build it again: bottlekit build {} --target {}".format(
                        path, bundle.name, bundle.path, target
                    )
                )
            found[part] = engine
    if not found:
        raise EngineError(
            "no engine of {} for {} in {}; build it: bottlekit build {} --target {} -o {}".format(
                bundle.name, target, engines_dir, bundle.path, target, engines_dir
            )
        )
    return found


def _read_sidecar(engine_path: str) -> Dict[str, Any]:
    path = sidecar_path(engine_path)
    if not os.path.isfile(path):
        raise EngineError(
            "no engine sidecar at {}; engines come from: bottlekit build BUNDLE --target TARGET".format(path)
        )
    try:
        sidecar = read_json(path, "engine sidecar")
    except BundleError as error:
        raise EngineError(str(error))
    if sidecar.get("format") != FORMAT or sidecar.get("version") != VERSION:
        raise EngineError(
            "{} is no engine sidecar of version {}: it says {} version {}; build it again".format(
                path, VERSION, sidecar.get("format"), sidecar.get("version")
            )
        )
    for name, kind in _FIELDS.items():
        if not isinstance(sidecar.get(name), kind):
            raise EngineError("{} is damaged: its field '{}' is missing or bad; build it again".format(path, name))
    if not {"name", "sha256"} <= set(sidecar["bundle"]) or sidecar["kind"] not in SUFFIXES:
        raise EngineError("{} is damaged: no bundle, or an unknown kind; build it again".format(path))
    return sidecar
