"""Import torchvision beside a torch without CUDA.

The torchvision wheels on PyPI are linked against the CUDA build of torch. Beside a CPU torch their C++ library
does not load, and `import torchvision` ends with "operator torchvision::nms does not exist", although no
classification network uses that operator. Declaring the operators (not implementing them) lets the import pass.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

# The operators for which torchvision registers shapes unconditionally while it is imported.
_DECLARED_ANYWAY = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.lru_cache(maxsize=1)
def torchvision_models() -> ModuleType:
    """The module `torchvision.models`, whichever builds of torch and torchvision are installed.

    Raises ModuleNotFoundError where torchvision is not installed.
    """
    if not _cpp_library_loads():
        for operator in _DECLARED_ANYWAY:
            if not hasattr(torch.ops.torchvision, operator):
                torch.library.define(f"torchvision::{operator}", _SIGNATURE)
    return importlib.import_module("torchvision.models")


def _cpp_library_loads() -> bool:
    """Whether torchvision's C++ library fits this torch; True where there is none to load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    # Loading it twice is harmless, torchvision will ask for the same file again; and doing it before the import
    # is the only order that works: a half-imported torchvision cannot be imported again.
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            return False
    return True
