"""The one place that imports TensorRT, and that asks the live module what it can do.

    flavour "tensorrt"      the library of Jetsons and servers, 8.2 to 11
    flavour "tensorrt_rtx"  the library of RTX PCs; it compiles ahead of time, with no GPU and no driver

Versions differ in what they offer, and a version number is a poor guide to that: everything here probes with
`hasattr`. What TensorRT says is recorded (trt_log.py), and told when something fails.
"""

import ctypes
import importlib
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from .errors import EngineError, TargetError, UnknownNameError
from .runner import TensorInfo
from .trt_errors import explain
from .trt_log import RecordedLog, enum_name

FLAVOURS = ("tensorrt", "tensorrt_rtx")

_HOW_TO_INSTALL = {
    "tensorrt": "on a Jetson it comes with JetPack (apt install python3-libnvinfer), on a server with TensorRT",
    "tensorrt_rtx": "type: pip install 'bottlekit[rtx]'",
}


def import_tensorrt(flavour: str) -> Any:
    """The TensorRT module of a flavour; TargetError with what to type where it cannot be imported."""
    if flavour not in FLAVOURS:
        raise UnknownNameError("TensorRT flavour", flavour, FLAVOURS)
    try:
        return importlib.import_module(flavour)
    # A binding without its libraries raises OSError or RuntimeError as well as ImportError.
    except Exception as error:
        raise TargetError(
            "the Python package '{}' is needed here and cannot be imported ({}); {}".format(
                flavour, " ".join(str(error).split()), _HOW_TO_INSTALL[flavour]
            )
        )


# The libraries by what the bindings load, with their major version.
_LIBRARIES = {"tensorrt": "libnvinfer.so.{}", "tensorrt_rtx": "libtensorrt_rtx.so.{}"}
_VERSION_PARTS = ("Major", "Minor", "Patch", "Build")


def full_version(trt: Any) -> str:
    """The version with its fourth part: a plan loads only where all four are the same.

    Some packages give three parts as `__version__`; libraries since TensorRT 10 tell all of them themselves.
    """
    version = str(trt.__version__)
    if version.count(".") >= 3:
        return version
    try:
        library = ctypes.CDLL(_LIBRARIES[flavour_of(trt)].format(version.split(".")[0]))
        parts = [getattr(library, "getInferLib{}Version".format(part))() for part in _VERSION_PARTS]
    except (OSError, AttributeError):
        return version
    return ".".join(str(part) for part in parts)


def flavour_of(trt: Any) -> str:
    """Which of FLAVOURS a module is."""
    return "tensorrt_rtx" if "rtx" in str(trt.__name__) else "tensorrt"


# TensorRT's own trt.nptype fails with numpy 1.24 and later in old versions.
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


def numpy_dtype(data_type: Any) -> Any:
    """The numpy dtype of a trt.DataType; EngineError for those that numpy lacks."""
    name = enum_name(data_type)
    if name not in _DTYPES:
        raise EngineError("numpy has no type for TensorRT's {}; keep it inside the engine".format(name))
    return np.dtype(_DTYPES[name])


def tensors_of_engine(trt: Any, engine: Any) -> Tuple[List[TensorInfo], List[TensorInfo]]:
    """The inputs and the outputs of an engine, each in its own order; free sizes are None."""
    inputs: List[TensorInfo] = []
    outputs: List[TensorInfo] = []
    named = hasattr(engine, "num_io_tensors")
    for index in range(engine.num_io_tensors if named else engine.num_bindings):
        if named:
            name = engine.get_tensor_name(index)
            shape, data_type = engine.get_tensor_shape(name), engine.get_tensor_dtype(name)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        else:
            name = engine.get_binding_name(index)
            shape, data_type = engine.get_binding_shape(index), engine.get_binding_dtype(index)
            is_input = engine.binding_is_input(index)
        sizes = tuple(size if size >= 0 else None for size in tuple(shape))
        (inputs if is_input else outputs).append(TensorInfo(name, sizes, numpy_dtype(data_type)))
    return inputs, outputs


# The smallest, the usual and the largest shape of one input.
Profile = Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]


class PlanOptions(NamedTuple):
    """What a plan is compiled for.

    `sm` the compute capability ("8.9") where the compiler can be told, None for this machine's own GPU;
    `profiles` the range of shapes of each input with free sizes; `workspace_bytes` the most scratch memory;
    `precision` "typed" takes the types that are in the ONNX (FP32 is then no TF32), "fp16" and "fp32" are flags of
    the builder up to TensorRT 10, and `fp32_layers` names ONNX nodes that stay FP32 under the FP16 flag; "int8"
    lets such a builder take the INT8 that is written into the ONNX as QuantizeLinear and DequantizeLinear;
    `timing_cache` is what an earlier build measured, b"" for nothing.
    """

    workspace_bytes: int
    sm: Optional[str] = None
    profiles: Optional[Dict[str, Profile]] = None
    precision: str = "typed"
    fp32_layers: Tuple[str, ...] = ()
    timing_cache: bytes = b""


class Plan(NamedTuple):
    """A compiled plan, the compiler's time, what it said (without its VERBOSE lines), and its timing cache."""

    content: bytes
    build_ms: float
    log: List[str]
    timing_cache: bytes = b""


# One build at a time: they would write into each other's logs.
_BUILDING = threading.Lock()


def plan_from_onnx(
    trt: Any, onnx: bytes, options: PlanOptions, where: str, log: Optional[RecordedLog] = None
) -> Plan:
    """Compile an ONNX file's content with a TensorRT module.

    ::

        onnx --OnnxParser--> network --+
        options --> builder config ----+--build_serialized_network--> plan

    `where` names the file in errors; `log` gets what TensorRT says meanwhile. TargetError when this TensorRT
    cannot compile for `options.sm`; EngineError with the parser's or the builder's own words when it refuses the
    graph.
    """
    with _BUILDING:
        log = log or RecordedLog()
        logger = log.logger(trt)
        builder = trt.Builder(logger)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(onnx):
            raise EngineError("{} cannot parse {}: {}".format(_name(trt), where, _parse_errors(parser, log)))
        config = _builder_config(trt, builder, options)
        _set_precision(trt, config, network, options)
        cache = _timing_cache(trt, config, options.timing_cache)
        started = time.perf_counter()
        plan = builder.build_serialized_network(network, config)
        build_ms = (time.perf_counter() - started) * 1e3
        if plan is None:
            raise EngineError("{} cannot build {}: {}".format(_name(trt), where, explain(log.errors())))
        lines = log.texts("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")
        return Plan(bytes(plan), build_ms, lines, b"" if cache is None else bytes(cache.serialize()))


def is_strongly_typed(trt: Any) -> bool:
    """Whether this TensorRT takes the precision from the ONNX alone (11 and TensorRT-RTX)."""
    return not hasattr(trt.BuilderFlag, "FP16")


def _timing_cache(trt: Any, config: Any, content: bytes) -> Any:
    """A timing cache in use: filled where `content` is one of this TensorRT and GPU, else empty."""
    # In TensorRT-RTX timing caches do nothing, and touching one is deprecated.
    if flavour_of(trt) == "tensorrt_rtx":
        return None
    for candidate in (content, b""):
        cache = config.create_timing_cache(candidate)
        # Damaged ones are not created; those of another TensorRT or GPU are not taken.
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _set_precision(trt: Any, config: Any, network: Any, options: PlanOptions) -> None:
    """Turn a precision into the builder's flags, where it has such flags."""
    if options.precision != "fp16" and hasattr(trt.BuilderFlag, "TF32"):
        # It is on by default and keeps 10 bits of the mantissa: not what FP32 says.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.precision == "typed":
        return
    if is_strongly_typed(trt):
        raise TargetError(
            "{} takes the precision from the graph, not from a flag; lower the graph to {} first".format(
                _name(trt), options.precision
            )
        )
    if options.precision == "fp32":
        return
    if options.precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
        return
    if options.precision != "fp16":
        raise UnknownNameError("precision", options.precision, ("typed", "fp32", "fp16", "int8"))
    config.set_flag(trt.BuilderFlag.FP16)
    if options.fp32_layers:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _keep_fp32(trt, network, set(options.fp32_layers))


def _keep_fp32(trt: Any, network: Any, names: Set[str]) -> None:
    """Bind the layers of these ONNX nodes to FP32; EngineError names those that the network does not have."""
    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in names:
            found.add(layer.name)
            layer.precision = trt.float32
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.float32)
    if names - found:
        raise EngineError("the network has no layers {} to keep in FP32".format(", ".join(sorted(names - found))))


def layers_of_engine(trt: Any, engine: Any) -> str:
    """What the inspector says of an engine's layers, as JSON text."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def compute_capabilities(trt: Any) -> List[str]:
    """The GPUs a module can compile for without having one, as "8.9"; empty where it needs the GPU itself."""
    known = getattr(trt, "ComputeCapability", None)
    digits = [name[2:] for name in dir(known) if name.startswith("SM") and name[2:].isdigit()]
    return ["{}.{}".format(number[:-1], number[-1]) for number in sorted(digits, key=int)]


def _name(trt: Any) -> str:
    return "{} {}".format("TensorRT-RTX" if flavour_of(trt) == "tensorrt_rtx" else "TensorRT", trt.__version__)


def _network_flags(trt: Any) -> int:
    """Up to 8.x an ONNX needs an explicit batch; 10 ignores the flag, and later versions do not know it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def _parse_errors(parser: Any, log: RecordedLog) -> str:
    """All of the parser's errors on one line, with the node where it says which."""
    texts = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        text = " ".join(error.desc().split())
        # Named since 10.0; before that the text itself says it.
        if hasattr(error, "node_operator") and error.node_operator():
            text = "node '{}' ({}): {}".format(error.node_name(), error.node_operator(), text)
        texts.append(text)
    return "; ".join(texts) or explain(log.errors())


def _builder_config(trt: Any, builder: Any, options: PlanOptions) -> Any:
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    else:
        config.max_workspace_size = options.workspace_bytes
    if options.sm is not None:
        known = compute_capabilities(trt)
        if options.sm not in known:
            raise TargetError(
                "{} cannot compile for SM {} on another machine; it can for: {}".format(
                    _name(trt), options.sm, ", ".join(known) or "none"
                )
            )
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, "SM" + options.sm.replace(".", ""))
        if not config.set_compute_capability(capability, 0):
            raise TargetError("{} refused to compile for SM {}".format(_name(trt), options.sm))
    if options.profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in options.profiles.items():
            profile.set_shape(name, smallest, usual, largest)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError("{} refused the batch sizes {}".format(_name(trt), options.profiles))
    return config
