"""A compiled kernel on the GPU, through the driver API: libcuda, which every machine with a GPU has.

    image (cubin or PTX) --KernelModule--> loaded into the current context --launch--> queued on a stream

It shares the primary context with whatever provider made it current (cuda.py): their streams and memory serve here.
"""

import ctypes
from typing import Any, List, Optional, Sequence, Tuple

from .errors import EngineError, TargetError

_NAMES = ("libcuda.so.1", "libcuda.so")

_POINTER, _UNSIGNED = ctypes.c_void_p, ctypes.c_uint
# cuLaunchKernel(function, grid x y z, block x y z, shared bytes, stream, arguments, extra)
_LAUNCH: List[Any] = [_POINTER] + [_UNSIGNED] * 7 + [_POINTER, ctypes.POINTER(_POINTER), _POINTER]


class Driver:
    """An open libcuda. TargetError where there is none."""

    def __init__(self, path: Optional[str] = None) -> None:
        reasons = []
        for name in [path] if path is not None else _NAMES:
            try:
                self._library = ctypes.CDLL(name)
                self._library.cuLaunchKernel.argtypes = _LAUNCH
                return
            except (OSError, AttributeError) as error:
                reasons.append(str(error))
        raise TargetError("libcuda cannot be loaded ({}); install NVIDIA's driver".format("; ".join(reasons)))

    def call(self, what: str, function: str, *arguments: Any) -> None:
        """Call one function; EngineError with what was tried and CUDA's words if it fails."""
        error = getattr(self._library, function)(*arguments)
        if error:
            raise EngineError("CUDA failed to {}: {}".format(what, self._words(error)))

    def _words(self, error: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorString(ctypes.c_int(error), ctypes.byref(text)) or not text.value:
            return "error {}".format(error)
        return text.value.decode("ascii", "replace")


class KernelModule:
    """One kernel of an image, loaded into the context that is current in this thread.

    EngineError where no context is current, or the image is not for this GPU; TargetError without libcuda.
    """

    def __init__(self, image: bytes, kernel: str, driver: Optional[Driver] = None) -> None:
        self.kernel = kernel
        self._driver = driver if driver is not None else Driver()
        context = ctypes.c_void_p()
        self._driver.call("find the context", "cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            raise EngineError(
                "no CUDA context is current in this thread; attach a provider before loading a kernel"
            )
        self._module = ctypes.c_void_p()
        # One byte more than the image: PTX is text, which a zero must end.
        content = ctypes.create_string_buffer(image, len(image) + 1)
        self._driver.call(
            "load the kernel {}".format(kernel), "cuModuleLoadData", ctypes.byref(self._module), content
        )
        self._function = ctypes.c_void_p()
        try:
            self._driver.call(
                "find the kernel {}".format(kernel),
                "cuModuleGetFunction",
                ctypes.byref(self._function),
                self._module,
                kernel.encode("ascii"),
            )
        except EngineError:
            self.close()
            raise

    def launch(self, grid: Tuple[int, int, int], threads: int, arguments: Sequence[Any], stream: int) -> None:
        """Queue the kernel on a stream (its address); `arguments` are ctypes values in the kernel's own order.

        CUDA copies the arguments before this returns; the memory behind addresses must live until the stream is
        synchronised.
        """
        addresses = (_POINTER * len(arguments))(*[ctypes.addressof(argument) for argument in arguments])
        sizes = grid + (threads, 1, 1)
        what = "launch the kernel {}".format(self.kernel)
        self._driver.call(what, "cuLaunchKernel", self._function, *sizes, 0, stream, addresses, None)

    def close(self) -> None:
        """Unload it, in the context that it was loaded into; once."""
        module, self._module = self._module, ctypes.c_void_p()
        if module.value:
            self._driver.call("unload the kernel {}".format(self.kernel), "cuModuleUnload", module)
