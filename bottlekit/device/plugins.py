"""The plugin library: QuantizeTile and UntileDequantize as TensorRT plugins, built on the machine that runs them.

    plugins/ --cmake--> libbottlekit_plugins.so --load_library--> TensorRT's registry knows the nodes' creators

An engine with such a node loads only where the library is, so the library's hash is part of the engine's key. No
numpy here: `doctor` looks for the library where numpy may not work.
"""

import ctypes
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional

from .errors import EngineError, TargetError
from .files import sha256_of_file

LIBRARY = "libbottlekit_plugins.so"
# The ONNX domain of the nodes, the plugins' namespace, and the version of both.
DOMAIN, DOMAIN_VERSION = "bottlekit", 1
# The node of each part that has one.
NODES = {"head": "QuantizeTile", "tail": "UntileDequantize"}
HOW_TO_BUILD = "cmake -S plugins -B plugins/build && cmake --build plugins/build"
# From this version of TensorRT on, plugins are IPluginV3.
FIRST_V3_MAJOR = 10

# What this process has loaded: path by hash. TensorRT's registry holds one creator for each name.
_loaded: Dict[str, str] = {}


class PluginLibrary(NamedTuple):
    """A library that was found: where, its SHA-256, the major version of the TensorRT that it is linked with."""

    path: str
    sha256: str
    tensorrt: Optional[int]

    @property
    def generation(self) -> str:
        """The interface of its plugins, for people."""
        if self.tensorrt is None:
            return "of an unknown TensorRT"
        kind = "IPluginV3" if self.tensorrt >= FIRST_V3_MAJOR else "IPluginV2DynamicExt"
        return "for TensorRT {} ({})".format(self.tensorrt, kind)


def library_places() -> List[str]:
    """Where a library is looked for: the user's cache, then where CMake puts it in a checkout of the project."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    checkout = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    return [
        os.path.join(cache, "bottlekit", "plugins", LIBRARY),
        os.path.join(checkout, "plugins", "build", LIBRARY),
    ]


def find_library(path: Optional[str] = None) -> PluginLibrary:
    """The library at `path`, else the first of `library_places`; TargetError where there is none."""
    for candidate in library_places() if path is None else [path]:
        if os.path.isfile(candidate):
            return _described(candidate)
    raise TargetError(
        "no plugin library {}; build it: {}".format(
            "at {}".format(path) if path is not None else "in {}".format(" or ".join(library_places())),
            HOW_TO_BUILD,
        )
    )


def library_of_engine(engine: str, sha256: str, built_with: Optional[str] = None) -> PluginLibrary:
    """The very library that an engine was built with: where it lay then, or in `library_places`.

    EngineError, naming the engine and the library, where it is not here, or another one is.
    """
    others = []
    for path in ([] if built_with is None else [built_with]) + library_places():
        if os.path.isfile(path):
            found = _described(path)
            if found.sha256 == sha256:
                return found
            others.append("{} is another one ({})".format(path, found.sha256[:8]))
    raise EngineError(
        "{} needs the plugin library {} that it was built with ({}), and {}; put that one into {}, or build the "
        "engine again: bottlekit build --plugin".format(
            engine,
            LIBRARY,
            sha256[:8],
            ", ".join(others) or "there is none here",
            os.path.dirname(library_places()[0]),
        )
    )


def require_generation(library: PluginLibrary, version: str) -> None:
    """TargetError unless the library was built for the major version of this TensorRT."""
    if library.tensorrt is not None and str(library.tensorrt) != version.split(".")[0]:
        raise TargetError(
            "{} was built {}, and this machine has TensorRT {}; build it again here: {}".format(
                library.path, library.generation, version, HOW_TO_BUILD
            )
        )


def load_library(trt: Any, library: PluginLibrary) -> None:
    """Load a library into this process, once, and see that TensorRT then knows its nodes.

    It registers its creators itself when it is loaded, in every version of TensorRT. TargetError if it cannot be
    loaded, was built for another TensorRT, or another library was loaded before.
    """
    require_generation(library, str(trt.__version__))
    if library.sha256 not in _loaded:
        if _loaded:
            raise TargetError(
                "this process has loaded the plugin library {} and cannot load {} as well; use another one".format(
                    next(iter(_loaded.values())), library.path
                )
            )
        try:
            ctypes.CDLL(library.path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise TargetError("the plugin library {} cannot be loaded: {}".format(library.path, _one_line(error)))
        _loaded[library.sha256] = library.path
    known = creators(trt)
    missing = [name for name in NODES.values() if name not in known]
    if missing:
        raise TargetError(
            "{} was loaded, and TensorRT {} does not know {}; build the library for this TensorRT: {}".format(
                library.path, trt.__version__, " and ".join(missing), HOW_TO_BUILD
            )
        )


def creators(trt: Any) -> List[str]:
    """The names of the plugins of our namespace and version that TensorRT's registry knows."""
    registry = trt.get_plugin_registry()
    # `plugin_creator_list` has the V2 creators alone, and is gone from 11; `all_creators` came with 10.
    known = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return [
        str(one.name)
        for one in known
        if (one.plugin_namespace, one.plugin_version) == (DOMAIN, str(DOMAIN_VERSION))
    ]


def _described(path: str) -> PluginLibrary:
    with open(path, "rb") as file:
        # The name that the dynamic linker looks for stands in the file as it is.
        needed = re.search(rb"libnvinfer\.so\.(\d+)", file.read())
    return PluginLibrary(
        os.path.abspath(path), sha256_of_file(path), None if needed is None else int(needed.group(1))
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
