"""The runtime-API providers: cuda-python, and libcudart through ctypes.

Both speak the same functions. `cuda.bindings.runtime` returns tuples `(error, result...)`; the ctypes table
here does the same, so that one provider class serves both.
"""

import contextlib
import ctypes
import ctypes.util
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from .cuda import CudaProvider, DeviceMemory, require_fits
from .errors import EngineError, TargetError

_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
_CAPTURE_THREAD_LOCAL = 1
_COMPUTE_MAJOR = 75
_COMPUTE_MINOR = 76
# cudaDeviceProp grows with every CUDA release; the name is its first field, 256 bytes, in all of them.
_PROPERTIES_BYTES = 16384
_NAME_BYTES = 256

# Each function of libcudart that is used: arguments that are results (filled by CUDA) first, as in its header.
# p pointer-sized handle, i int, f float, z size_t.
_SIGNATURES = {
    "cudaGetDeviceCount": ("i", ""),
    "cudaSetDevice": ("", "i"),
    "cudaDeviceGetAttribute": ("i", "ii"),
    "cudaMemGetInfo": ("zz", ""),
    "cudaDriverGetVersion": ("i", ""),
    "cudaRuntimeGetVersion": ("i", ""),
    "cudaMalloc": ("p", "z"),
    "cudaFree": ("", "p"),
    "cudaHostAlloc": ("p", "zi"),
    "cudaFreeHost": ("", "p"),
    "cudaMemcpyAsync": ("", "ppzip"),
    "cudaStreamCreate": ("p", ""),
    "cudaStreamDestroy": ("", "p"),
    "cudaStreamSynchronize": ("", "p"),
    "cudaEventCreate": ("p", ""),
    "cudaEventDestroy": ("", "p"),
    "cudaEventRecord": ("", "pp"),
    "cudaEventElapsedTime": ("f", "pp"),
    "cudaStreamBeginCapture": ("", "pi"),
    "cudaGraphLaunch": ("", "pp"),
    "cudaGraphDestroy": ("", "p"),
    "cudaGraphExecDestroy": ("", "p"),
}
_CTYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "f": ctypes.c_float, "z": ctypes.c_size_t}


class CtypesRuntime:
    """libcudart's functions called as those of `cuda.bindings.runtime`: a tuple of error and results comes back."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p
        library.cudaGetErrorString.argtypes = [ctypes.c_int]

    def call(self, name: str, *arguments: Any) -> Tuple[Any, ...]:
        """Call one function of the signature table; `(error code, result...)`."""
        results, parameters = _SIGNATURES[name]
        outs: List[Any] = [_CTYPES[letter]() for letter in results]
        ins = [_CTYPES[letter](value) for letter, value in zip(parameters, arguments)]
        error = getattr(self._library, name)(*([ctypes.byref(out) for out in outs] + ins))
        return (error,) + tuple(out.value for out in outs)

    def error_text(self, error: int) -> str:
        """CUDA's own words for an error code."""
        text = self._library.cudaGetErrorString(error)
        return text.decode("ascii", "replace") if text else "error {}".format(error)

    def device_name(self, device: int) -> str:
        """The GPU's name."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        # Renamed with a suffix from CUDA 12 on; the old symbol is still exported there.
        if self._library.cudaGetDeviceProperties(properties, ctypes.c_int(device)) != 0:
            return "unknown"
        return properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")

    def end_capture(self, stream: int) -> Tuple[int, Optional[int]]:
        """`cudaStreamEndCapture`: error and graph."""
        graph = ctypes.c_void_p()
        error = self._library.cudaStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
        return error, graph.value

    def instantiate(self, graph: int) -> Tuple[int, Optional[int]]:
        """`cudaGraphInstantiate`: error and executable graph. Its arguments changed with CUDA 12."""
        executable = ctypes.c_void_p()
        if self.call("cudaRuntimeGetVersion")[1] >= 12000:
            rest: List[Any] = [ctypes.c_ulonglong(0)]
        else:
            rest = [ctypes.c_void_p(), ctypes.c_char_p(), ctypes.c_size_t(0)]
        error = self._library.cudaGraphInstantiate(ctypes.byref(executable), ctypes.c_void_p(graph), *rest)
        return error, executable.value


class CudaPythonRuntime:
    """The same functions over NVIDIA's cuda-python."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def call(self, name: str, *arguments: Any) -> Tuple[Any, ...]:
        """Call one function of the signature table; `(error code, result...)`."""
        module = self._module
        if name == "cudaMemcpyAsync":
            kinds = {
                _HOST_TO_DEVICE: module.cudaMemcpyKind.cudaMemcpyHostToDevice,
                _DEVICE_TO_HOST: module.cudaMemcpyKind.cudaMemcpyDeviceToHost,
            }
            arguments = arguments[:3] + (kinds[arguments[3]],) + arguments[4:]
        elif name == "cudaDeviceGetAttribute":
            arguments = (module.cudaDeviceAttr(arguments[0]),) + arguments[1:]
        elif name == "cudaStreamBeginCapture":
            arguments = (arguments[0], module.cudaStreamCaptureMode(arguments[1]))
        answer = getattr(module, name)(*arguments)
        return (int(answer[0]),) + tuple(answer[1:])

    def error_text(self, error: int) -> str:
        """CUDA's own words for an error code."""
        code, text = self._module.cudaGetErrorString(self._module.cudaError_t(error))
        return text.decode("ascii", "replace") if int(code) == 0 else "error {}".format(error)

    def device_name(self, device: int) -> str:
        """The GPU's name."""
        error, properties = self._module.cudaGetDeviceProperties(device)
        return properties.name.split(b"\0")[0].decode("ascii", "replace") if int(error) == 0 else "unknown"

    def end_capture(self, stream: Any) -> Tuple[int, Any]:
        """`cudaStreamEndCapture`: error and graph."""
        answer = self._module.cudaStreamEndCapture(stream)
        return int(answer[0]), answer[1]

    def instantiate(self, graph: Any) -> Tuple[int, Any]:
        """`cudaGraphInstantiate`: error and executable graph."""
        answer = self._module.cudaGraphInstantiate(graph, 0)
        return int(answer[0]), answer[1]


def runtime_from_ctypes(path: Optional[str] = None) -> CtypesRuntime:
    """Load libcudart: a given file, the one the loader finds, or the one under /usr/local/cuda."""
    found = ctypes.util.find_library("cudart")
    names = [path] if path else ["libcudart.so", found, "/usr/local/cuda/lib64/libcudart.so"]
    reasons = []
    for name in names:
        if not name:
            continue
        try:
            return CtypesRuntime(ctypes.CDLL(name))
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
    raise TargetError(
        "libcudart cannot be loaded ({}); install CUDA, or add its lib64 folder to LD_LIBRARY_PATH".format(
            "; ".join(reasons)
        )
    )


def runtime_from_cuda_python() -> CudaPythonRuntime:
    """Import cuda-python's runtime module (`cuda.bindings.runtime`, `cuda.cudart` before 12.6)."""
    try:
        from cuda.bindings import runtime as module
    except ImportError:
        try:
            from cuda import cudart as module
        except ImportError as error:
            raise TargetError("cuda-python cannot be imported ({}); type: pip install cuda-python".format(error))
    return CudaPythonRuntime(module)


class RuntimeProvider(CudaProvider):
    """CUDA's runtime API. The runtime makes the primary context current by itself, per thread."""

    def __init__(self, name: str, runtime: Any, device: int = 0) -> None:
        self.name = name
        self._runtime = runtime
        self._device = device
        self._pinned: Dict[int, Any] = {}
        self._graphs: List[Tuple[Any, Any]] = []
        self._streams: List[Any] = []
        self._events: List[Any] = []
        count = self._call("count devices", "cudaGetDeviceCount")[0]
        if device >= count:
            raise TargetError("CUDA device {} does not exist; there are {} devices".format(device, count))

    def _call(self, what: str, function: str, *arguments: Any) -> Tuple[Any, ...]:
        answer = self._runtime.call(function, *arguments)
        self._check(what, answer[0])
        return tuple(answer[1:])

    def _check(self, what: str, error: int) -> None:
        if error != 0:
            raise EngineError("CUDA failed to {}: {}".format(what, self._runtime.error_text(error)))

    @contextlib.contextmanager
    def attach(self) -> Iterator[None]:
        """Choose the device for this thread."""
        self._call("choose the device", "cudaSetDevice", self._device)
        yield

    def device_facts(self) -> Dict[str, Any]:
        """See CudaProvider.device_facts."""
        major = self._call("read the compute capability", "cudaDeviceGetAttribute", _COMPUTE_MAJOR, self._device)[0]
        minor = self._call("read the compute capability", "cudaDeviceGetAttribute", _COMPUTE_MINOR, self._device)[0]
        runtime_version = self._call("read the version", "cudaRuntimeGetVersion")[0]
        return {
            "name": self._runtime.device_name(self._device),
            "sm": "{}.{}".format(major, minor),
            "memory_bytes": self._call("read the memory size", "cudaMemGetInfo")[1],
            "driver_version": self._call("read the driver version", "cudaDriverGetVersion")[0],
            "runtime_version": "{}.{}".format(runtime_version // 1000, runtime_version % 1000 // 10),
        }

    def allocate(self, nbytes: int) -> DeviceMemory:
        """See CudaProvider.allocate."""
        answer = self._runtime.call("cudaMalloc", nbytes)
        if answer[0] != 0:
            free = self._call("read the memory size", "cudaMemGetInfo")[0]
            raise EngineError(
                "CUDA cannot allocate {} bytes, {} are free ({})".format(
                    nbytes, free, self._runtime.error_text(answer[0])
                )
            )
        return DeviceMemory(int(answer[1]), nbytes)

    def free(self, memory: DeviceMemory) -> None:
        """See CudaProvider.free."""
        self._call("free memory", "cudaFree", memory.address)

    def pinned_array(self, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
        """See CudaProvider.pinned_array."""
        count = int(np.prod(shape, dtype=np.int64))
        nbytes = max(1, count * np.dtype(dtype).itemsize)
        address = self._call("allocate pinned memory", "cudaHostAlloc", nbytes, 0)[0]
        self._pinned[int(address)] = address
        block = (ctypes.c_char * nbytes).from_address(int(address))
        return np.frombuffer(block, dtype=dtype, count=count).reshape(shape)

    def free_pinned(self, array: np.ndarray) -> None:
        """See CudaProvider.free_pinned."""
        self._call("free pinned memory", "cudaFreeHost", self._pinned.pop(int(array.ctypes.data)))

    def copy_to_device(self, memory: DeviceMemory, array: np.ndarray, stream: Any) -> None:
        """See CudaProvider.copy_to_device."""
        require_fits(memory, array)
        self._copy(
            "copy to the device", memory.address, int(array.ctypes.data), array.nbytes, _HOST_TO_DEVICE, stream
        )

    def copy_to_host(self, array: np.ndarray, memory: DeviceMemory, stream: Any) -> None:
        """See CudaProvider.copy_to_host."""
        require_fits(memory, array)
        self._copy(
            "copy to the host", int(array.ctypes.data), memory.address, array.nbytes, _DEVICE_TO_HOST, stream
        )

    def _copy(self, what: str, target: int, source: int, nbytes: int, kind: int, stream: Any) -> None:
        self._call(what, "cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def stream(self) -> Any:
        """See CudaProvider.stream."""
        stream = self._call("create a stream", "cudaStreamCreate")[0]
        self._streams.append(stream)
        return stream

    def stream_handle(self, stream: Any) -> int:
        """See CudaProvider.stream_handle."""
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        """See CudaProvider.synchronize."""
        self._call("finish the stream's work", "cudaStreamSynchronize", stream)

    def event(self) -> Any:
        """See CudaProvider.event."""
        event = self._call("create an event", "cudaEventCreate")[0]
        self._events.append(event)
        return event

    def record(self, event: Any, stream: Any) -> None:
        """See CudaProvider.record."""
        self._call("record an event", "cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See CudaProvider.elapsed_ms."""
        return float(self._call("read an event", "cudaEventElapsedTime", start, end)[0])

    def begin_capture(self, stream: Any) -> None:
        """See CudaProvider.begin_capture."""
        self._call("start recording a graph", "cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: Any) -> Any:
        """See CudaProvider.end_capture."""
        error, graph = self._runtime.end_capture(stream)
        self._check("finish recording a graph", error)
        error, executable = self._runtime.instantiate(graph)
        self._check("make a graph executable", error)
        self._graphs.append((graph, executable))
        return executable

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """See CudaProvider.launch_graph."""
        self._call("launch a graph", "cudaGraphLaunch", graph, stream)

    def close(self) -> None:
        """See CudaProvider.close."""
        for graph, executable in self._graphs:
            self._call("free a graph", "cudaGraphExecDestroy", executable)
            self._call("free a graph", "cudaGraphDestroy", graph)
        for event in self._events:
            self._call("free an event", "cudaEventDestroy", event)
        for stream in self._streams:
            self._call("free a stream", "cudaStreamDestroy", stream)
        for address in self._pinned.values():
            self._call("free pinned memory", "cudaFreeHost", address)
        self._graphs, self._events, self._streams, self._pinned = [], [], [], {}
