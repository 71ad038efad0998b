"""The codec's quantiser and tiling as one CUDA kernel behind a head, so that only codes cross to the host.

    feature (n, c, h, w) in device memory --one kernel, the head's stream--> words, range, status (codes.py)

The codes are those of the codec, to the last bit: see plugins/README.md.
"""

import ctypes
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .codecs import Codec
from .codes import FEATURE, RANGE, STATUS, WORDS, quantised_tensors
from .errors import EngineError
from .kernel_module import Driver, KernelModule
from .kernels import kernel_image
from .runner import TensorInfo, shape_text
from .tiling import Shape

KERNEL = "quantize_tile"
# As in plugins/quantize_tile/kernel.cuh: a block for each image, whole warps.
THREADS = 512


class QuantizeTileOptions(ctypes.Structure):
    """The kernel's second argument, as plugins/quantize_tile/options.h declares it."""

    _fields_ = [
        ("channels", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("bits", ctypes.c_int),
        ("static_range", ctypes.c_int),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    ]


class FusedQuantiser:
    """The kernel for features of one shape. `load` and `close` in the same context, `launch` in between.

    `driver` is an open libcuda; None opens the machine's own when the kernel is loaded.
    """

    def __init__(
        self,
        shape: Shape,
        bits: int,
        value_range: Optional[Tuple[float, float]] = None,
        driver: Optional[Driver] = None,
    ) -> None:
        self.shape = shape
        self.outputs: List[TensorInfo] = quantised_tensors(shape)
        low, high = value_range or (0.0, 0.0)
        self._options = QuantizeTileOptions(*(tuple(shape) + (bits, int(value_range is not None), low, high)))
        self._driver = driver
        self._module: Optional[KernelModule] = None

    @classmethod
    def from_codec(cls, codec: Codec, driver: Optional[Driver] = None) -> "FusedQuantiser":
        """The one that gives what `codec` would compute."""
        return cls(codec.shape, codec.bits, codec.value_range, driver)

    def require_fits(self, outputs: List[TensorInfo]) -> None:
        """EngineError unless these are the outputs of a head that gives float32 features of this shape alone."""
        wanted = TensorInfo(FEATURE, (None,) + tuple(self.shape), np.dtype(np.float32))
        if [(info.name, info.shape[1:], info.dtype) for info in outputs] != [
            (wanted.name, wanted.shape[1:], wanted.dtype)
        ]:
            given = ", ".join("{} {} {}".format(info.name, shape_text(info.shape), info.dtype) for info in outputs)
            raise EngineError(
                "the kernel takes {} {} float32, and the engine gives {}".format(
                    wanted.name, shape_text(wanted.shape), given
                )
            )

    def load(self, sm: str) -> None:
        """Compile the kernel for a compute capability, or take the kept one, and load it.

        TargetError without NVRTC or libcuda; EngineError where the kernel cannot be compiled or loaded.
        """
        image, _ = kernel_image(KERNEL, sm)
        self._module = KernelModule(image, "bottlekit_" + KERNEL, self._driver)

    def launch(self, images: int, addresses: Dict[str, int], stream: int) -> None:
        """Queue the kernel for so many images; `addresses` are those of the feature and of the three outputs."""
        if self._module is None:
            raise EngineError("the kernel {} is not loaded".format(KERNEL))
        arguments: List[Any] = [ctypes.c_void_p(addresses[FEATURE]), self._options]
        arguments += [ctypes.c_void_p(addresses[name]) for name in (WORDS, RANGE, STATUS)]
        self._module.launch((images, 1, 1), THREADS, arguments, stream)

    def close(self) -> None:
        """Unload the kernel; it may be loaded again."""
        module, self._module = self._module, None
        if module is not None:
            module.close()
