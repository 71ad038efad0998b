"""The project's CUDA kernels: their sources, compiled for a GPU and kept.

    plugins/**/kernel.cuh --kernel_sources--> text --Nvrtc--> cubin --> ~/.cache/bottlekit/kernels/

In an installed package and in the agent the sources lie beside this file, in kernel_sources/; in a checkout of the
project they are read from plugins/ itself.
"""

import hashlib
import os
import pkgutil
from typing import Dict, Optional, Tuple

from .errors import EngineError
from .files import whole_file
from .nvrtc import Compiled, Nvrtc

KERNELS = ("quantize_tile", "untile_dequantize")
# By the name that a source includes them with, and where they lie below plugins/.
SOURCES = {
    "bottlekit/arithmetic.h": "include/bottlekit/arithmetic.h",
    "quantize_tile/options.h": "quantize_tile/options.h",
    "quantize_tile/kernel.cuh": "quantize_tile/kernel.cuh",
    "untile_dequantize/options.h": "untile_dequantize/options.h",
    "untile_dequantize/kernel.cuh": "untile_dequantize/kernel.cuh",
}
PACKAGED = "kernel_sources"


def kernel_sources() -> Dict[str, str]:
    """The text of every source, by the name that others include it with; EngineError where one is missing."""
    return {name: _source(name) for name in SOURCES}


def _source(name: str) -> str:
    try:
        content = pkgutil.get_data(__package__ or "", "{}/{}".format(PACKAGED, name))
    except OSError:
        content = None
    if content is not None:
        return content.decode("utf-8")
    path = os.path.join(os.path.dirname(__file__), "..", "..", "plugins", SOURCES[name])
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        raise EngineError("the kernel source {} is missing; install bottlekit again".format(name)) from None


def compile_kernel(kernel: str, sm: str, nvrtc: Optional[Nvrtc] = None) -> Compiled:
    """One kernel for a compute capability like "6.2"; the log tells its registers and spills."""
    sources = kernel_sources()
    compiler = nvrtc if nvrtc is not None else Nvrtc(sm=sm)
    options = ["--ptxas-options=-v"] if compiler.version >= (11, 2) else []
    entry = "{}/kernel.cuh".format(kernel)
    return compiler.compile_cuda('#include "{}"\n'.format(entry), sources, sm, options, kernel + ".cu")


def kernel_image(kernel: str, sm: str, folder: Optional[str] = None) -> Tuple[bytes, bool]:
    """The image of a kernel, and whether it was kept from before. `folder` None is the user's cache.

    The name says the GPU and the hash of every source, so that nothing old is ever taken.
    """
    digest = hashlib.sha256()
    for name, text in sorted(kernel_sources().items()):
        digest.update("{}\0{}\0".format(name, text).encode("utf-8"))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "bottlekit", "kernels") if folder is None else folder
    path = os.path.join(folder, "{}-sm{}-{}".format(kernel, sm.replace(".", ""), digest.hexdigest()[:16]))
    try:
        with open(path, "rb") as file:
            return file.read(), True
    except OSError:
        compiled = compile_kernel(kernel, sm)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(compiled.image)
    return compiled.image, False
