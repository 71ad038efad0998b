"""CUDA memory, streams and events behind one interface, with three providers.

    pycuda        the Jetson's usual binding; the primary context is retained, pushed and popped per thread
    cuda-python   NVIDIA's own binding (`cuda.bindings.runtime`), the runtime API
    ctypes        libcudart.so through ctypes: nothing to install, the fall-back on a TX2

The driver-API provider (pycuda) and the runtime-API providers share the device's primary context, so engines,
torch and the kernels here can live in one process. `pycuda.autoinit` makes a context of its own and is
never used.
"""

import contextlib
from typing import Any, Dict, Tuple

import numpy as np

from .errors import EngineError, TargetError


class DeviceMemory:
    """A block of device memory: its address as an int, and its size."""

    def __init__(self, address: int, nbytes: int, keep: Any = None) -> None:
        self.address = address
        self.nbytes = nbytes
        # The provider's own object for the block (pycuda frees a block when it is collected).
        self.keep = keep


class CudaProvider:
    """One thread's use of one GPU.

    ::

        array --copy_to_device--> DeviceMemory --engine on a stream--> DeviceMemory --copy_to_host--> array

    All copies and launches are asynchronous on the given stream; nothing on the host may be touched, and no
    block freed, before `synchronize(stream)`. Every call checks what CUDA returned and raises EngineError.
    """

    name = ""

    def attach(self) -> "contextlib.AbstractContextManager[None]":
        """Make the device's primary context current in this thread for the length of a `with`."""
        raise NotImplementedError

    def device_facts(self) -> Dict[str, Any]:
        """Name, compute capability (`sm`, e.g. "6.2"), total memory in bytes, driver and runtime version."""
        raise NotImplementedError

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Allocate device memory; EngineError says how much was asked for and how much is free."""
        raise NotImplementedError

    def free(self, memory: DeviceMemory) -> None:
        """Give a block back; twice is an error."""
        raise NotImplementedError

    def pinned_array(self, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
        """A page-locked host array, so that copies can overlap."""
        raise NotImplementedError

    def free_pinned(self, array: np.ndarray) -> None:
        """Give a page-locked array back; it must not be touched any more."""
        raise NotImplementedError

    def copy_to_device(self, memory: DeviceMemory, array: np.ndarray, stream: Any) -> None:
        """Queue a copy of a C-contiguous array into a block that is at least as large."""
        raise NotImplementedError

    def copy_to_host(self, array: np.ndarray, memory: DeviceMemory, stream: Any) -> None:
        """Queue a copy of the block's first bytes into a C-contiguous array."""
        raise NotImplementedError

    def stream(self) -> Any:
        """A new stream."""
        raise NotImplementedError

    def stream_handle(self, stream: Any) -> int:
        """The stream's address, as TensorRT's `execute_async` takes it."""
        raise NotImplementedError

    def synchronize(self, stream: Any) -> None:
        """Wait for everything queued on the stream; errors of earlier launches surface here."""
        raise NotImplementedError

    def event(self) -> Any:
        """A new timing event."""
        raise NotImplementedError

    def record(self, event: Any, stream: Any) -> None:
        """Queue the event on the stream."""
        raise NotImplementedError

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Device time between two recorded events, in ms; both must have been reached."""
        raise NotImplementedError

    def begin_capture(self, stream: Any) -> None:
        """Start recording the stream's work into a graph instead of running it."""
        raise TargetError("the CUDA provider {} cannot record graphs; use cuda-python or ctypes".format(self.name))

    def end_capture(self, stream: Any) -> Any:
        """Stop recording; an executable graph."""
        raise TargetError("the CUDA provider {} cannot record graphs; use cuda-python or ctypes".format(self.name))

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Queue an executable graph on the stream."""
        raise TargetError("the CUDA provider {} cannot record graphs; use cuda-python or ctypes".format(self.name))

    def close(self) -> None:
        """Free what is left and let go of the context."""
        raise NotImplementedError


def require_fits(memory: DeviceMemory, array: np.ndarray) -> None:
    """Refuse a copy that would run past the block, or an array whose bytes are not in one run."""
    if not array.flags["C_CONTIGUOUS"]:
        raise EngineError("a copy to or from the GPU needs a C-contiguous array; use numpy.ascontiguousarray")
    if array.nbytes > memory.nbytes:
        raise EngineError(
            "a copy of {} bytes does not fit into a block of {} bytes".format(array.nbytes, memory.nbytes)
        )
