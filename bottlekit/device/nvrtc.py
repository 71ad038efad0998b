"""NVRTC, NVIDIA's run-time compiler of CUDA, through ctypes: it needs no GPU and no CUDA toolkit.

CUDA C++ source, headers --compile_cuda--> a cubin for one compute capability, what the compiler told
                                           (PTX where NVRTC is older than CUDA 11.2, as on a Jetson TX2)
"""

import ctypes
import glob
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .errors import EngineError, TargetError

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so.10.2", "libnvrtc.so")
# Where pip puts NVIDIA's packages, below a folder of sys.path.
_PACKAGED = ("nvidia/cuda_nvrtc/lib/libnvrtc.so.*", "nvidia/cu1*/lib/libnvrtc.so.*")


class Compiled(NamedTuple):
    """What NVRTC gave: the image that the driver loads, "cubin" or "ptx", and its log."""

    image: bytes
    kind: str
    log: str


class Nvrtc:
    """An open libnvrtc; `path` names it, None takes the newest that knows the compute capability `sm`.

    TargetError where there is none.
    """

    def __init__(self, path: Optional[str] = None, sm: Optional[str] = None) -> None:
        reasons = []
        for candidate in [path] if path is not None else nvrtc_libraries():
            try:
                self._library = ctypes.CDLL(candidate)
                major, minor = ctypes.c_int(), ctypes.c_int()
                self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
            except (OSError, AttributeError, EngineError) as error:
                reasons.append("{}: {}".format(candidate, error))
                continue
            self.path: str = candidate
            self.version: Tuple[int, int] = (major.value, minor.value)
            if sm is None or self._knows(sm):
                return
            reasons.append("{}: CUDA {}.{} does not know SM {}".format(candidate, *(self.version + (sm,))))
        raise TargetError(
            "no NVRTC for the kernels here ({}); type: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'".format(
                "; ".join(reasons)
            )
        )

    def compile_cuda(
        self, source: str, headers: Dict[str, str], sm: str, options: Sequence[str] = (), name: str = "kernel.cu"
    ) -> Compiled:
        """Compile for one compute capability, like "6.2"; EngineError, with the log's first error, if it fails.

        `headers` are what the source includes, by the name that it includes them with.
        """
        number = sm.replace(".", "")
        cubin = hasattr(self._library, "nvrtcGetCUBIN")
        flags = ["--gpu-architecture={}_{}".format("sm" if cubin else "compute", number), "--std=c++14"]
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.encode("utf-8"),
            name.encode("utf-8"),
            len(headers),
            _strings(list(headers.values())),
            _strings(list(headers)),
        )
        try:
            flags += options
            failed = self._library.nvrtcCompileProgram(program, len(flags), _strings(flags))
            log = self._text("nvrtcGetProgramLog", program)
            if failed:
                errors = [line for line in log.splitlines() if "error" in line] or [self._words(failed)]
                raise EngineError("NVRTC cannot compile {} for SM {}: {}".format(name, sm, errors[0].strip()))
            kind = "cubin" if cubin else "ptx"
            return Compiled(self._bytes("nvrtcGet" + kind.upper(), program), kind, log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _knows(self, sm: str) -> bool:
        """Whether it compiles for a compute capability; old ones cannot be asked."""
        if not hasattr(self._library, "nvrtcGetSupportedArchs"):
            return True
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        return int(sm.replace(".", "")) in list(known)

    def _bytes(self, function: str, program: Any) -> bytes:
        size = ctypes.c_size_t()
        self._call(function + "Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(function, program, content)
        return content.raw

    def _text(self, function: str, program: Any) -> str:
        return self._bytes(function, program).rstrip(b"\0").decode("utf-8", "replace")

    def _call(self, function: str, *arguments: Any) -> None:
        failed = getattr(self._library, function)(*arguments)
        if failed:
            raise EngineError("{} failed: {}".format(function, self._words(failed)))

    def _words(self, status: int) -> str:
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        words: bytes = self._library.nvrtcGetErrorString(status)
        return words.decode("utf-8", "replace")


def nvrtc_libraries() -> List[str]:
    """Every libnvrtc to try: the loader's, then those of NVIDIA's Python packages, the newest first."""
    packaged = [
        path
        for folder in sys.path
        for pattern in _PACKAGED
        for path in glob.glob(os.path.join(glob.escape(folder or "."), pattern))
        if ".alt." not in path
    ]
    return list(_NAMES) + sorted(dict.fromkeys(packaged), key=os.path.basename, reverse=True)


def _strings(texts: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*[text.encode("utf-8") for text in texts])
