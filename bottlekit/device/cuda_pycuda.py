"""The pycuda provider: the driver API over the retained primary context."""

import contextlib
from typing import Any, Callable, Dict, Iterator, Tuple, TypeVar

import numpy as np

from .cuda import CudaProvider, DeviceMemory, require_fits
from .errors import EngineError, TargetError

Result = TypeVar("Result")


class PycudaProvider(CudaProvider):
    """pycuda's driver API. The context is pushed and popped per thread by `attach`, never by pycuda.autoinit."""

    name = "pycuda"

    def __init__(self, device: int = 0) -> None:
        try:
            import pycuda.driver as driver
        except Exception as error:  # pycuda raises ImportError, OSError or its own errors without a driver
            raise TargetError("pycuda cannot be imported ({}); type: pip install pycuda".format(_one_line(error)))
        self._driver = driver
        self._call("init", driver.init)
        count = self._call("count devices", driver.Device.count)
        if device >= count:
            raise TargetError("CUDA device {} does not exist; there are {} devices".format(device, count))
        self._device = self._call("open device", driver.Device, device)
        self._context = self._call("retain context", self._device.retain_primary_context)

    def _call(self, what: str, function: Callable[..., Result], *args: Any) -> Result:
        try:
            return function(*args)
        except self._driver.Error as error:
            raise EngineError("CUDA failed to {}: {}".format(what, _one_line(error)))

    @contextlib.contextmanager
    def attach(self) -> Iterator[None]:
        """Push the primary context for this thread, pop it at the end."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def device_facts(self) -> Dict[str, Any]:
        """See CudaProvider.device_facts."""
        major, minor = self._device.compute_capability()
        return {
            "name": self._device.name(),
            "sm": "{}.{}".format(major, minor),
            "memory_bytes": int(self._device.total_memory()),
            "driver_version": int(self._driver.get_driver_version()),
            "runtime_version": ".".join(str(part) for part in self._driver.get_version()),
        }

    def allocate(self, nbytes: int) -> DeviceMemory:
        """See CudaProvider.allocate."""
        try:
            block = self._driver.mem_alloc(nbytes)
        except self._driver.Error as error:
            free = self._driver.mem_get_info()[0]
            raise EngineError(
                "CUDA cannot allocate {} bytes, {} are free ({})".format(nbytes, free, _one_line(error))
            )
        return DeviceMemory(int(block), nbytes, keep=block)

    def free(self, memory: DeviceMemory) -> None:
        """See CudaProvider.free."""
        self._call("free memory", memory.keep.free)

    def pinned_array(self, shape: Tuple[int, ...], dtype: Any) -> np.ndarray:
        """See CudaProvider.pinned_array."""
        array: np.ndarray = self._call("allocate pinned memory", self._driver.pagelocked_empty, shape, dtype)
        return array

    def free_pinned(self, array: np.ndarray) -> None:
        """See CudaProvider.free_pinned. pycuda frees the memory with the array's last reference."""

    def copy_to_device(self, memory: DeviceMemory, array: np.ndarray, stream: Any) -> None:
        """See CudaProvider.copy_to_device."""
        require_fits(memory, array)
        self._call("copy to the device", self._driver.memcpy_htod_async, memory.address, array, stream)

    def copy_to_host(self, array: np.ndarray, memory: DeviceMemory, stream: Any) -> None:
        """See CudaProvider.copy_to_host."""
        require_fits(memory, array)
        self._call("copy to the host", self._driver.memcpy_dtoh_async, array, memory.address, stream)

    def stream(self) -> Any:
        """See CudaProvider.stream."""
        return self._call("create a stream", self._driver.Stream)

    def stream_handle(self, stream: Any) -> int:
        """See CudaProvider.stream_handle."""
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        """See CudaProvider.synchronize."""
        self._call("finish the stream's work", stream.synchronize)

    def event(self) -> Any:
        """See CudaProvider.event."""
        return self._call("create an event", self._driver.Event)

    def record(self, event: Any, stream: Any) -> None:
        """See CudaProvider.record."""
        self._call("record an event", event.record, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See CudaProvider.elapsed_ms."""
        return float(self._call("read an event", start.time_till, end))

    def close(self) -> None:
        """See CudaProvider.close."""
        self._call("release the context", self._context.detach)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
