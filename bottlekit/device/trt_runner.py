"""Running TensorRT plans: every version from 8.2's bindings to the named tensors of 10 and later.

::

    feeds --copy--> pinned --stream--> DeviceMemory --execute--> DeviceMemory --stream--> pinned --copy--> outputs
                                                event       event
"""

import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .cuda import CudaProvider, DeviceMemory
from .cuda_providers import provider_from_name
from .errors import EngineError, TargetError
from .fit import require_fits
from .runner import Runner, TensorInfo, shape_text
from .trt import full_version, import_tensorrt, layers_of_engine, tensors_of_engine
from .trt_errors import explain
from .trt_log import RecordedLog

Shapes = Tuple[Tuple[str, Tuple[int, ...]], ...]


class _Buffer:
    """The device block and the pinned host array of one tensor."""

    def __init__(self, memory: DeviceMemory, host: np.ndarray) -> None:
        self.memory = memory
        self.host = host


class TensorRTRunner(Runner):
    """A plan on a GPU.

    `flavour` is "tensorrt" or "tensorrt_rtx". `provider` names the CUDA provider (see cuda.py), or is one that
    is open already. With `graph`, the work of each set of input shapes is recorded once as a CUDA graph and
    replayed, where TensorRT and the provider can. `key` is that of the plan's sidecar: one that was built for
    another TensorRT or GPU is then refused before TensorRT reads it. One thread at a time.

    After each `run`, `device_ms` holds the time between two CUDA events around the execution alone; host time,
    copies included, is what a caller's clock measures around `run`.
    """

    def __init__(
        self,
        path: str,
        flavour: str = "tensorrt",
        provider: Any = "auto",
        graph: bool = False,
        key: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(os.fspath(path))
        self.path = os.fspath(path)
        self.flavour = flavour
        self.graph = graph
        self.key = key
        self.device_ms: Optional[float] = None
        self.log = RecordedLog()
        self._provider = provider
        self._cuda: Any = None
        self._attached: Any = None
        self._trt: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._buffers: Dict[str, _Buffer] = {}
        self._shapes: Shapes = ()
        self._graphs: Dict[Shapes, Any] = {}

    def layers(self) -> str:
        """What TensorRT's inspector says of the engine's layers, as JSON text."""
        self._check_active()
        return layers_of_engine(self._trt, self._engine)

    def _activate(self) -> Tuple[List[TensorInfo], List[TensorInfo]]:
        if not os.path.isfile(self.path):
            raise EngineError("no engine at {}: the file does not exist".format(self.path))
        try:
            self._trt = import_tensorrt(self.flavour)
            given = isinstance(self._provider, CudaProvider)
            self._cuda = self._provider if given else provider_from_name(self._provider)
        except TargetError as error:
            raise TargetError(
                "{} is a TensorRT plan and cannot run on this machine: {}; to run here, type: "
                "bottlekit build BUNDLE --target cpu".format(self.path, error)
            )
        self._attached = self._cuda.attach()
        self._attached.__enter__()
        try:
            self._load()
        except BaseException:
            self._deactivate()
            raise
        return tensors_of_engine(self._trt, self._engine)

    def _load(self) -> None:
        if self.key is not None:
            require_fits(self.path, self.key, full_version(self._trt), self._cuda.device_facts())
        with open(self.path, "rb") as file:
            content = file.read()
        logger = self.log.logger(self._trt)
        runtime = self._trt.Runtime(logger)
        self._engine = runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError("TensorRT cannot load {}: {}".format(self.path, explain(self.log.errors())))
        # TensorRT takes its runtime down with the last reference; the engine must not outlive it.
        self._runtime = runtime
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT cannot start {}: {}".format(self.path, explain(self.log.errors())))
        self._stream = self._cuda.stream()
        self._start, self._end = self._cuda.event(), self._cuda.event()

    def _deactivate(self) -> None:
        self._free_buffers()
        self._shapes = ()
        self._context = self._engine = self._runtime = None
        self._attached.__exit__(None, None, None)
        if not isinstance(self._provider, CudaProvider):
            self._cuda.close()
        self._cuda = self._attached = None

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        shapes = tuple(sorted((name, tuple(array.shape)) for name, array in feeds.items()))
        if shapes != self._shapes:
            self._set_shapes(shapes)
        for name, array in feeds.items():
            np.copyto(self._buffers[name].host, array)
        self._queue(shapes)
        self._cuda.synchronize(self._stream)
        self.device_ms = self._cuda.elapsed_ms(self._start, self._end)
        return {info.name: self._buffers[info.name].host.copy() for info in self._outputs}

    def _set_shapes(self, shapes: Shapes) -> None:
        """Tell TensorRT the input shapes and make the buffers that fit them."""
        for name, shape in shapes:
            by_name = hasattr(self._context, "set_input_shape")
            accepted = (
                self._context.set_input_shape(name, shape)
                if by_name
                else self._context.set_binding_shape(self._engine.get_binding_index(name), shape)
            )
            # 8.2 also answers False for an input whose shape is fixed, although the shape is right.
            if accepted is False and self._shape(name) != shape:
                raise EngineError(
                    "{} was not built for '{}' of {}; build it again with a larger --max-batch".format(
                        self.path, name, shape_text(shape)
                    )
                )
        self._free_buffers()
        for info in self._inputs + self._outputs:
            shape = self._shape(info.name)
            host = self._cuda.pinned_array(shape, info.dtype)
            self._buffers[info.name] = _Buffer(self._cuda.allocate(max(1, host.nbytes)), host)
            if hasattr(self._context, "set_tensor_address"):
                self._context.set_tensor_address(info.name, self._buffers[info.name].memory.address)
        self._shapes = shapes

    def _free_buffers(self) -> None:
        for buffer in self._buffers.values():
            self._cuda.free(buffer.memory)
            self._cuda.free_pinned(buffer.host)
        self._buffers, self._graphs = {}, {}

    def _shape(self, name: str) -> Tuple[int, ...]:
        if hasattr(self._context, "get_tensor_shape"):
            return tuple(self._context.get_tensor_shape(name))
        return tuple(self._context.get_binding_shape(self._engine.get_binding_index(name)))

    def _queue(self, shapes: Shapes) -> None:
        """Queue one inference: inputs up, execution between two events, outputs down."""
        for info in self._inputs:
            buffer = self._buffers[info.name]
            self._cuda.copy_to_device(buffer.memory, buffer.host, self._stream)
        graph = self._graph_for(shapes) if self.graph else None
        self._cuda.record(self._start, self._stream)
        if graph is None:
            self._execute()
        else:
            self._cuda.launch_graph(graph, self._stream)
        self._cuda.record(self._end, self._stream)
        for info in self._outputs:
            buffer = self._buffers[info.name]
            self._cuda.copy_to_host(buffer.host, buffer.memory, self._stream)

    def _execute(self) -> None:
        handle = self._cuda.stream_handle(self._stream)
        if hasattr(self._context, "execute_async_v3"):
            done = self._context.execute_async_v3(handle)
        else:
            addresses = [0] * len(self._buffers)
            for name, buffer in self._buffers.items():
                addresses[self._engine.get_binding_index(name)] = buffer.memory.address
            done = self._context.execute_async_v2(addresses, handle)
        if not done:
            raise EngineError("TensorRT failed to run {}: {}".format(self.path, explain(self.log.errors())))

    def _graph_for(self, shapes: Shapes) -> Any:
        if shapes not in self._graphs:
            # TensorRT prepares itself in the first run after a change of shapes; recording must come after that.
            self._execute()
            self._cuda.synchronize(self._stream)
            self._cuda.begin_capture(self._stream)
            self._execute()
            self._graphs[shapes] = self._cuda.end_capture(self._stream)
        return self._graphs[shapes]
