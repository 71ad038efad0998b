"""Running TensorRT plans: every version from 8.2's bindings to the named tensors of 10 and later.

::

    feeds --copy--> pinned --stream--> DeviceMemory --execute--> DeviceMemory --stream--> pinned --copy--> outputs
                                                event       event

With a quantiser (fused.py) a kernel follows the execution, between the same events, and its outputs are copied in
place of the feature.
"""

import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .cuda import CudaProvider, DeviceMemory
from .cuda_providers import provider_from_name
from .errors import EngineError, TargetError
from .fit import require_fits
from .fused import FusedQuantiser
from .plugins import library_of_engine, load_library
from .runner import Runner, TensorInfo, shape_text
from .trt import full_version, import_tensorrt, layers_of_engine, tensors_of_engine
from .trt_errors import explain
from .trt_log import RecordedLog

Shapes = Tuple[Tuple[str, Tuple[int, ...]], ...]


class _Buffer:
    """The device block of one tensor and its pinned host array; None for what stays on the GPU."""

    def __init__(self, memory: DeviceMemory, host: Optional[np.ndarray]) -> None:
        self.memory = memory
        self.host = host


class TensorRTRunner(Runner):
    """A plan on a GPU.

    `flavour` is "tensorrt" or "tensorrt_rtx". `provider` names the CUDA provider (see cuda.py), or is one that
    is open already. With `graph`, the work of each set of input shapes is recorded once as a CUDA graph and
    replayed, where TensorRT and the provider can. `key` is that of the plan's sidecar: one that was built for
    another TensorRT or GPU is then refused before TensorRT reads it. One thread at a time.

    With `quantiser` a head gives codes (codes.py) in place of its feature, if this machine can compile and load the
    kernel; `why_not_fused` says why it cannot, and the feature comes as without.

    A plan whose key names a plugin library needs that very one: it is looked for at `plugin_library`, where it lay
    when the plan was built, and in the usual places.

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
        quantiser: Optional[FusedQuantiser] = None,
        plugin_library: Optional[str] = None,
    ) -> None:
        super().__init__(os.fspath(path))
        self.path = os.fspath(path)
        self.flavour = flavour
        self.graph = graph
        self.key = key
        self.device_ms: Optional[float] = None
        self.why_not_fused: Optional[str] = None
        self.log = RecordedLog()
        self._quantiser = quantiser
        self._plugin_library = plugin_library
        self._fused: Optional[FusedQuantiser] = None
        self._engine_outputs: List[TensorInfo] = []
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
            inputs, self._engine_outputs = tensors_of_engine(self._trt, self._engine)
            self._load_quantiser()
        except BaseException:
            self._deactivate()
            raise
        return inputs, self._engine_outputs if self._fused is None else self._fused.outputs

    def _load(self) -> None:
        if self.key is not None:
            require_fits(self.path, self.key, full_version(self._trt), self._cuda.device_facts())
            self._load_plugin(self.key.get("plugin"))
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

    def _load_plugin(self, plugin: Optional[Dict[str, Any]]) -> None:
        """The plugin library that the plan was built with, if it was built with one."""
        if plugin is not None:
            load_library(self._trt, library_of_engine(self.path, plugin["library_sha256"], self._plugin_library))

    def _load_quantiser(self) -> None:
        """The kernel behind the engine, or why there is none: the codec on the host computes the same."""
        self.why_not_fused = None
        if self._quantiser is None:
            return
        try:
            self._quantiser.require_fits(self._engine_outputs)
            self._quantiser.load(self._cuda.device_facts()["sm"])
            self._fused = self._quantiser
        except (TargetError, EngineError) as error:
            self.why_not_fused = str(error)

    def _deactivate(self) -> None:
        self._free_buffers()
        if self._fused is not None:
            self._fused.close()
            self._fused = None
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
            np.copyto(self._host(name), array)
        self._queue(shapes)
        self._cuda.synchronize(self._stream)
        self.device_ms = self._cuda.elapsed_ms(self._start, self._end)
        return {info.name: self._host(info.name).copy() for info in self._outputs}

    def _host(self, name: str) -> np.ndarray:
        host = self._buffers[name].host
        assert host is not None
        return host

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
        for info in self._inputs + self._engine_outputs:
            crosses = info in self._inputs or info in self._outputs
            self._buffers[info.name] = self._buffer(self._shape(info.name), info.dtype, crosses)
            if hasattr(self._context, "set_tensor_address"):
                self._context.set_tensor_address(info.name, self._buffers[info.name].memory.address)
        if self._fused is not None:
            images = self._shape(self._engine_outputs[0].name)[0]
            for info in self._fused.outputs:
                shape = (images,) + tuple(size or 1 for size in info.shape[1:])
                self._buffers[info.name] = self._buffer(shape, info.dtype, True)
        self._shapes = shapes

    def _buffer(self, shape: Tuple[int, ...], dtype: Any, crosses: bool) -> _Buffer:
        """A block for a tensor, and a pinned array where it crosses between GPU and host."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        host = self._cuda.pinned_array(shape, dtype) if crosses else None
        return _Buffer(self._cuda.allocate(max(1, nbytes)), host)

    def _free_buffers(self) -> None:
        for buffer in self._buffers.values():
            self._cuda.free(buffer.memory)
            if buffer.host is not None:
                self._cuda.free_pinned(buffer.host)
        self._buffers, self._graphs = {}, {}

    def _shape(self, name: str) -> Tuple[int, ...]:
        if hasattr(self._context, "get_tensor_shape"):
            return tuple(self._context.get_tensor_shape(name))
        return tuple(self._context.get_binding_shape(self._engine.get_binding_index(name)))

    def _queue(self, shapes: Shapes) -> None:
        """Queue one inference: inputs up, execution between two events, outputs down."""
        for info in self._inputs:
            self._cuda.copy_to_device(self._buffers[info.name].memory, self._host(info.name), self._stream)
        graph = self._graph_for(shapes) if self.graph else None
        self._cuda.record(self._start, self._stream)
        if graph is None:
            self._execute()
        else:
            self._cuda.launch_graph(graph, self._stream)
        self._cuda.record(self._end, self._stream)
        for info in self._outputs:
            self._cuda.copy_to_host(self._host(info.name), self._buffers[info.name].memory, self._stream)

    def _execute(self) -> None:
        handle = self._cuda.stream_handle(self._stream)
        if hasattr(self._context, "execute_async_v3"):
            done = self._context.execute_async_v3(handle)
        else:
            tensors = self._inputs + self._engine_outputs
            addresses = [0] * len(tensors)
            for info in tensors:
                addresses[self._engine.get_binding_index(info.name)] = self._buffers[info.name].memory.address
            done = self._context.execute_async_v2(addresses, handle)
        if not done:
            raise EngineError("TensorRT failed to run {}: {}".format(self.path, explain(self.log.errors())))
        if self._fused is not None:
            placed = {name: buffer.memory.address for name, buffer in self._buffers.items()}
            images = self._shape(self._engine_outputs[0].name)[0]
            self._fused.launch(images, placed, handle)

    def _graph_for(self, shapes: Shapes) -> Any:
        if shapes not in self._graphs:
            # TensorRT prepares itself in the first run after a change of shapes; recording must come after that.
            self._execute()
            self._cuda.synchronize(self._stream)
            self._cuda.begin_capture(self._stream)
            self._execute()
            self._graphs[shapes] = self._cuda.end_capture(self._stream)
        return self._graphs[shapes]
