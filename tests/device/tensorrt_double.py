"""A double of one version of TensorRT's Python module, for machines without a GPU.

It builds by remembering the ONNX, and runs by handing it to ONNX Runtime, reading and writing the "device"
memory of the libcudart double (heap memory, so addresses are real). What it may offer is read from the
recorded surface of that version (tests/data/tensorrt_api): any other name raises AttributeError, as the real
bindings do, also on assignment. Strings that it logs are TensorRT's own.

    trt = tensorrt_double("8.2", sm="6.2")     ->  a module-like object
    trt.double.fail_build = "...".             ->  the next build logs that and returns None
"""

import ctypes
import enum
import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

SURFACES = Path(__file__).parent.parent / "data" / "tensorrt_api"
MAGIC = b"ptrt-double\n"
CACHE = b"tactics-of-"
FILES = {
    "8.2": "tensorrt-8.6.1.json",
    "8.6": "tensorrt-8.6.1.json",
    "10.0": "tensorrt-10.0.1.json",
    "10.16": "tensorrt-10.16.1.json",
    "11.4": "tensorrt-11.4.0.json",
    "rtx": "tensorrt_rtx-1.7.1.json",
}
FULL_VERSIONS = {
    "8.2": "8.2.1.8",
    "8.6": "8.6.1.6",
    "10.0": "10.0.1.6",
    "10.16": "10.16.1.11",
    "11.4": "11.4.0.9",
    "rtx": "1.7.1.116",
}
VERSIONS = tuple(FILES)


def surface(version):
    """The recorded names of one version: ({class: names}, module attributes)."""
    recorded = json.loads((SURFACES / FILES[version]).read_text())
    classes = {name: set(members) for name, members in recorded["classes"].items()}
    if version == "8.2":
        absent = json.loads((SURFACES / "tensorrt-8.2-differences.json").read_text())
        gone = set(absent["methods_and_properties_absent_in_8_2"])
        for name in absent["classes_absent_in_8_2"]:
            classes.pop(name, None)
        for name, values in absent["enum_values_absent_in_8_2"].items():
            classes[name] -= set(values)
        classes = {
            name: members if name in absent["enum_values_absent_in_8_2"] else members - gone
            for name, members in classes.items()
        }
    return classes, set(recorded["module_attributes"])


def _shared_array(address, shape, dtype):
    """A view of `shape` over the bytes at an address."""
    count = int(np.prod(shape, dtype=np.int64))
    block = (ctypes.c_char * max(1, count * np.dtype(dtype).itemsize)).from_address(int(address))
    return np.frombuffer(block, dtype=dtype, count=count).reshape(shape)


class _Limited:
    """Base of the doubled classes: only the names of the surface may be read or set from outside."""

    _surface = frozenset()

    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self._surface:
            raise AttributeError("'{}' object has no attribute '{}'".format(type(self).__name__, name))
        object.__setattr__(self, name, value)


_ORT_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32", "tensor(int8)": "INT8"}
_NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT8": np.int8}


class _Graph:
    """What the double knows of an ONNX: a session, and its inputs and outputs with -1 for free dimensions."""

    def __init__(self, onnx_bytes):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        self.inputs = [self._describe(value) for value in self.session.get_inputs()]
        self.outputs = [self._describe(value) for value in self.session.get_outputs()]

    @staticmethod
    def _describe(value):
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        return value.name, shape, _ORT_TYPES[value.type]


def _creators_in_this_process():
    """The plugins that TensorRT's registry would know: those of a library (see plugin_library) that was loaded."""
    try:
        ctypes.c_int.in_dll(ctypes.CDLL(None), "double_of_the_plugin_library")
    except ValueError:
        return []
    return ["QuantizeTile", "UntileDequantize"]


def plugin_library(folder, tensorrt=8, more=""):
    """Compile a double of the plugin library, which names the TensorRT that it needs; `more` makes it another."""
    source, path = str(Path(folder, "plugins.c")), str(Path(folder, "libbottlekit_plugins.so"))
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = 'int double_of_the_plugin_library = 1;\nconst char *needed = "libnvinfer.so.{}";\n{}\n'
    Path(source).write_text(text.format(tensorrt, more))
    subprocess.check_call(["cc", "-shared", "-fPIC", "-o", path, source])
    return path


class _Creator:
    """What a registry tells of one plugin."""

    plugin_version, plugin_namespace = "1", "bottlekit"

    def __init__(self, name):
        self.name = name


class _Double:
    """The knobs of a test, and everything that the classes of one module share."""

    def __init__(self, version, sm, fast_fp16, fast_int8):
        self.version, self.sm, self.fast_fp16, self.fast_int8 = version, sm, fast_fp16, fast_int8
        self.fail_build = None
        self.fail_above_bytes = None  # a build with more workspace runs out of memory
        self.fail_parse = []
        self.fail_execute = False
        # What an ONNX becomes; a test that has onnx can give one that knows the project's own nodes.
        self.graph = _Graph
        self.creators = _creators_in_this_process
        self.layer_names = ["conv1", "relu1", "fc"]
        # How queued work reaches the stream: at once, or through the libcudart double, which can record it.
        self.enqueue = lambda work: work(0)
        self.builds = []  # one dict per build: what reached the builder


def tensorrt_double(version, sm="6.2", fast_fp16=True, fast_int8=False):
    """A module-like object with exactly the recorded surface of `version` ("8.2", "8.6", "10.0", ...)."""
    classes, attributes = surface(version)
    double = _Double(version, sm, fast_fp16, fast_int8)

    class Module:
        pass

    module = Module()
    module.__name__ = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    module.__version__ = FULL_VERSIONS[version]
    module.double = double

    implemented = {name: base for name, base in _implementations(module, double).items() if name in classes}
    for name, base in implemented.items():
        names = frozenset(classes[name])
        body = {key: value for key, value in vars(base).items() if key.startswith("_") or key in names}
        body.pop("__dict__", None)
        body.pop("__weakref__", None)
        body["_surface"] = names
        parents = (bytes,) if issubclass(base, bytes) else (_Limited,)
        setattr(module, name, type(name, parents, body))
    for name, members in classes.items():
        values = sorted(members - {"name", "value", "itemsize"})
        if name not in implemented and values and all(value == value.upper() for value in values):
            setattr(module, name, enum.IntEnum(name, [(value, number) for number, value in enumerate(values)]))
        elif name.startswith("IInt8"):
            setattr(module, name, type(name, (), {}))
    severity = enum.IntEnum(
        "Severity", [("INTERNAL_ERROR", 0), ("ERROR", 1), ("WARNING", 2), ("INFO", 3), ("VERBOSE", 4)]
    )
    for name in ("ILogger", "Logger"):
        getattr(module, name).Severity = severity
        for member in severity:
            setattr(getattr(module, name), member.name, member)
    for name in attributes & {"float32", "float16", "int32", "int8"}:
        setattr(
            module, name, getattr(module.DataType, {"float32": "FLOAT", "float16": "HALF"}.get(name, name.upper()))
        )
    if "get_plugin_registry" in attributes:
        module.get_plugin_registry = lambda: module.IPluginRegistry()
    if "init_libnvinfer_plugins" in attributes:
        module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module


def _implementations(module, double):
    """The classes that do something, as supersets of all versions; the surface trims them."""

    class ILogger:
        def log(self, severity, msg):
            raise NotImplementedError

    class Logger:
        def __init__(self, min_severity=None):
            pass

        def log(self, severity, msg):
            pass

    class IHostMemory(bytes):
        @property
        def nbytes(self):
            return len(self)

    class ITimingCache(_Limited):
        def __init__(self, content):
            self._content = self._given = content

        def serialize(self):
            return module.IHostMemory(self._content)

        def combine(self, other, ignore_mismatch):
            self._content += other._content
            return True

    class IOptimizationProfile(_Limited):
        def __init__(self):
            self._shapes = {}

        def set_shape(self, input, min, opt, max):  # noqa: A002
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

        def get_shape(self, input):  # noqa: A002
            return [tuple(shape) for shape in self._shapes[input]]

        def __bool__(self):
            return True

    class IBuilderConfig(_Limited):
        def __init__(self):
            self._flags, self._profiles, self._workspace = {"TF32"}, [], None
            self._cache = None
            self._capability = None

        def set_flag(self, flag):
            if flag not in module.BuilderFlag:
                raise TypeError("set_flag(): incompatible function arguments")
            self._flags.add(flag.name)

        def clear_flag(self, flag):
            self._flags.discard(flag.name)

        def get_flag(self, flag):
            return flag.name in self._flags

        def set_memory_pool_limit(self, pool, pool_size):
            assert pool is module.MemoryPoolType.WORKSPACE
            self._workspace = pool_size

        def get_memory_pool_limit(self, pool):
            return self._workspace

        @property
        def max_workspace_size(self):
            return self._workspace

        @max_workspace_size.setter
        def max_workspace_size(self, size):
            self._workspace = size

        def add_optimization_profile(self, profile):
            self._profiles.append(dict(profile._shapes))
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            if double.version == "rtx":
                raise DeprecationWarning("Timing cache operations are no-ops in TensorRT-RTX.")
            content = bytes(serialized_timing_cache)
            return module.ITimingCache(content) if content.startswith(CACHE) or not content else None

        def set_timing_cache(self, cache, ignore_mismatch):
            mine = CACHE + FULL_VERSIONS[double.version].encode() + double.sm.encode()
            if cache._content and not cache._content.startswith(mine):
                return False
            cache._content = cache._content or mine
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

        def set_compute_capability(self, capability, index):
            self._capability = capability
            return True

    class ITensor(_Limited):
        def __init__(self, name, shape, kind):
            self._name, self._shape, self._kind = name, shape, kind

        @property
        def name(self):
            return self._name

        @property
        def shape(self):
            return self._shape

        @property
        def dtype(self):
            return getattr(module.DataType, self._kind)

    class ILayer(_Limited):
        def __init__(self, name):
            self._name, self._precision, self._types = name, None, {}

        name = property(lambda self: self._name)
        num_outputs = property(lambda self: 1)

        @property
        def precision(self):
            return self._precision

        @precision.setter
        def precision(self, precision):
            self._precision = precision

        def set_output_type(self, index, dtype):
            self._types[index] = dtype

    class INetworkDefinition(_Limited):
        def __init__(self, flags):
            self._flags_given, self._onnx, self._graph = flags, None, None
            self._layers = [module.ILayer(name) for name in double.layer_names]

        @property
        def num_inputs(self):
            return len(self._graph.inputs)

        @property
        def num_outputs(self):
            return len(self._graph.outputs)

        @property
        def num_layers(self):
            return len(self._layers)

        def get_layer(self, index):
            return self._layers[index]

        def get_input(self, index):
            return module.ITensor(*self._graph.inputs[index])

        def get_output(self, index):
            return module.ITensor(*self._graph.outputs[index])

    class ParserError(_Limited):
        def __init__(self, text):
            self._text = text

        def desc(self):
            return self._text

        def node(self):
            return -1

        def code(self):
            return 0

    class OnnxParser(_Limited):
        def __init__(self, network, logger):
            self._network, self._logger, self._errors = network, logger, []

        def parse(self, model, path=None):
            self._errors = [module.ParserError(text) for text in double.fail_parse]
            if not self._errors:
                try:
                    self._network._graph = double.graph(bytes(model))
                    self._network._onnx = bytes(model)
                except Exception as error:
                    self._errors = [module.ParserError(str(error))]
            return not self._errors

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

        def clear_errors(self):
            self._errors = []

    class Builder(_Limited):
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, flags=0):
            known = module.NetworkDefinitionCreationFlag
            if double.version.startswith("8."):
                assert flags & (1 << int(known.EXPLICIT_BATCH)), "8.x needs EXPLICIT_BATCH for ONNX"
            if flags >> len(known):
                raise TypeError("create_network(): unknown flags {}".format(flags))
            return module.INetworkDefinition(flags)

        def create_builder_config(self):
            return module.IBuilderConfig()

        def create_optimization_profile(self):
            return module.IOptimizationProfile()

        @property
        def platform_has_fast_fp16(self):
            return double.fast_fp16

        @property
        def platform_has_fast_int8(self):
            return double.fast_int8

        def build_serialized_network(self, network, config):
            log = self._logger.log
            severity = module.ILogger.Severity
            if double.fail_build is not None:
                log(severity.ERROR, double.fail_build)
                return None
            if double.fail_above_bytes is not None and config._workspace > double.fail_above_bytes:
                text = "Tactic Device request: {}MB Available: {}MB. Device memory is insufficient to use tactic."
                log(severity.WARNING, text.format(config._workspace >> 20, double.fail_above_bytes >> 20))
                log(
                    severity.ERROR,
                    "10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any "
                    "implementation for node Conv_0.)",
                )
                return None
            free = [name for name, shape, _ in network._graph.inputs if -1 in shape]
            if free and not config._profiles:
                log(
                    severity.ERROR,
                    "Network has dynamic or shape inputs, but no optimization profile has been defined.",
                )
                return None
            if "FP16" in config._flags and not double.fast_fp16:
                log(severity.WARNING, "Half2 support requested on hardware without native FP16 support")
            given = config._cache._given if config._cache is not None else b""
            if config._cache is not None:
                config._cache._content += b"+conv"
            double.builds.append(
                {
                    "flags": sorted(config._flags),
                    "workspace_bytes": config._workspace,
                    "profiles": config._profiles,
                    "fp32_layers": [layer.name for layer in network._layers if layer._precision is not None],
                    "timing_cache": given,
                    "network_flags": network._flags_given,
                }
            )
            log(severity.INFO, "Engine built")
            header = {
                "version": FULL_VERSIONS[double.version],
                "sm": double.sm if config._capability is None else config._capability.name,
                "profiles": config._profiles,
            }
            return module.IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network._onnx)

    class IPluginRegistry(_Limited):
        @property
        def plugin_creator_list(self):
            # From TensorRT 10 on, the creators of IPluginV3 are not among these.
            return [] if hasattr(self, "all_creators") else [_Creator(name) for name in double.creators()]

        @property
        def all_creators(self):
            return [_Creator(name) for name in double.creators()]

    class EngineInspector(_Limited):
        def __init__(self, engine):
            self._engine = engine

        def get_engine_information(self, format):  # noqa: A002
            return json.dumps({"Layers": ["all of it"], "Bindings": [row[0] for row in self._engine._rows]})

    class ICudaEngine(_Limited):
        def __init__(self, graph, profiles, logger):
            self._graph, self._profiles, self._logger = graph, profiles, logger
            self._rows = graph.inputs + graph.outputs

        def _row(self, name):
            return next(row for row in self._rows if row[0] == name)

        num_bindings = property(lambda self: len(self._rows))
        num_io_tensors = property(lambda self: len(self._rows))
        num_optimization_profiles = property(lambda self: max(1, len(self._profiles)))
        device_memory_size = property(lambda self: 0)
        device_memory_size_v2 = property(lambda self: 0)
        name = property(lambda self: "double")

        def get_binding_name(self, index):
            return self._rows[index][0]

        def get_binding_index(self, name):
            return [row[0] for row in self._rows].index(name)

        def get_tensor_name(self, index):
            return self._rows[index][0]

        def binding_is_input(self, index):
            return index < len(self._graph.inputs)

        def get_tensor_mode(self, name):
            inputs = [row[0] for row in self._graph.inputs]
            return module.TensorIOMode.INPUT if name in inputs else module.TensorIOMode.OUTPUT

        def get_binding_shape(self, index):
            return self._rows[index][1]

        def get_tensor_shape(self, name):
            return self._row(name)[1]

        def get_binding_dtype(self, index):
            return getattr(module.DataType, self._rows[index][2])

        def get_tensor_dtype(self, name):
            return getattr(module.DataType, self._row(name)[2])

        def get_profile_shape(self, profile_index, binding):
            name = binding if isinstance(binding, str) else self._rows[binding][0]
            return [tuple(shape) for shape in self._profiles[profile_index][name]]

        def get_tensor_profile_shape(self, name, profile_index):
            return [tuple(shape) for shape in self._profiles[profile_index][name]]

        def create_execution_context(self):
            return module.IExecutionContext(self)

        def create_engine_inspector(self):
            return module.EngineInspector(self)

    class IExecutionContext(_Limited):
        def __init__(self, engine):
            self._engine, self._addresses, self._shapes = engine, {}, {}
            self._shapes = {row[0]: row[1] for row in engine._graph.inputs if -1 not in row[1]}

        def _set(self, name, shape):
            shape = tuple(shape)
            declared = self._engine._row(name)[1]
            fits = len(shape) == len(declared) and all(want in (-1, size) for want, size in zip(declared, shape))
            for profile in self._engine._profiles[:1]:
                low, _, high = profile.get(name, (shape, shape, shape))
                fits = fits and all(a <= size <= b for a, size, b in zip(low, shape, high))
            if fits:
                self._shapes[name] = shape
            return fits

        def set_input_shape(self, name, shape):
            return self._set(name, shape)

        def set_binding_shape(self, binding, shape):
            return self._set(self._engine._rows[binding][0], shape)

        def _output_shape(self, name):
            shape = self._engine._row(name)[1]
            if -1 not in shape:
                return shape
            batch = next(iter(self._shapes.values()), (-1,))[0]
            return (batch,) + tuple(shape[1:])

        def get_binding_shape(self, binding):
            name = self._engine._rows[binding][0]
            return self._shapes.get(name) or self._output_shape(name)

        def get_tensor_shape(self, name):
            return self._shapes.get(name) or self._output_shape(name)

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return True

        def get_tensor_address(self, name):
            return self._addresses.get(name, 0)

        def execute_async_v2(self, bindings, stream_handle):
            names = [row[0] for row in self._engine._rows]
            return self._execute(dict(zip(names, bindings)))

        def execute_async_v3(self, stream_handle):
            return self._execute(self._addresses)

        def _execute(self, addresses):
            graph = self._engine._graph
            if (
                double.fail_execute
                or len(self._shapes) < len(graph.inputs)
                or len(addresses) < len(self._engine._rows)
            ):
                self._engine._logger.log(
                    module.ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (invalid argument)"
                )
                return False
            addresses, shapes = dict(addresses), dict(self._shapes)

            def work(_):
                feeds = {
                    name: _shared_array(addresses[name], shapes[name], _NUMPY_TYPES[kind]).copy()
                    for name, _, kind in graph.inputs
                }
                for (name, _, kind), value in zip(graph.outputs, graph.session.run(None, feeds)):
                    _shared_array(addresses[name], value.shape, _NUMPY_TYPES[kind])[...] = value

            double.enqueue(work)
            return True

    class Runtime(_Limited):
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            content = bytes(serialized_engine)
            severity = module.ILogger.Severity
            if not content.startswith(MAGIC):
                self._logger.log(
                    severity.ERROR,
                    "Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match",
                )
                return None
            header, onnx_bytes = content[len(MAGIC) :].split(b"\n", 1)
            facts = json.loads(header.decode())
            if facts["version"] != FULL_VERSIONS[double.version]:
                text = (
                    "The engine plan file is not compatible with this version of TensorRT, expecting library "
                    "version {} got {}, please rebuild."
                )
                self._logger.log(severity.ERROR, text.format(FULL_VERSIONS[double.version], facts["version"]))
                return None
            if facts["sm"] != double.sm:
                text = (
                    "The engine plan file is generated on an incompatible device, expecting compute {} got "
                    "compute {}, please rebuild."
                )
                self._logger.log(severity.ERROR, text.format(double.sm, facts["sm"]))
                return None
            try:
                graph = double.graph(onnx_bytes)
            except Exception:
                self._logger.log(
                    severity.ERROR, "Error Code 1: Serialization (Serialization assertion safeVersionRead failed)"
                )
                return None
            return module.ICudaEngine(graph, facts["profiles"], self._logger)

    return {name: value for name, value in locals().items() if isinstance(value, type)}


def install_tensorrt(folder, version, sm="6.2", hook=""):
    """Write a module `tensorrt` (or `tensorrt_rtx`) into a folder, for processes that have it on PYTHONPATH.

    `hook` is source that may change the double, called `module`; `os`, `signal` and `time` are imported.
    """
    name = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    source = (
        "import os, signal, sys, time\n"
        "sys.path.insert(0, {here!r})\n"
        "from tensorrt_double import tensorrt_double\n"
        "module = tensorrt_double({version!r}, sm={sm!r})\n"
        "sys.modules[__name__] = module\n"
        "{hook}\n"
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name + ".py").write_text(
        source.format(here=str(Path(__file__).parent), version=version, sm=sm, hook=hook)
    )
