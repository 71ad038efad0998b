"""Every name of TensorRT that the island uses exists in each version that its probes lead there.

The names are read from the source: attributes of the objects of TensorRT, which are called the same everywhere.
What versions really offer is recorded in tests/data/tensorrt_api. A name that not every version has must be in
`PROBED`, with the question that the source asks the live module before using it.
"""

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tensorrt_double import VERSIONS, surface

DEVICE = Path(__file__).parents[2] / "bottlekit" / "device"
FILES = ("plugins.py", "trt.py", "trt_log.py", "trt_runner.py")

# What the objects of TensorRT are called in the source, and their classes.
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "runtime": "Runtime",
    "self._runtime": "Runtime",
    "inspector": "EngineInspector",
    "registry": "IPluginRegistry",
}
MODULES = ("trt", "self._trt")

# Names that some versions lack: used only where the probe (class, name) is there (True) or is not (False).
FLAGS = ("BuilderFlag", "FP16")
NAMED = ("ICudaEngine", "num_io_tensors")
PROBED = {
    ("BuilderFlag", "FP16"): (FLAGS, True),
    ("BuilderFlag", "INT8"): (FLAGS, True),
    ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"): (FLAGS, True),
    ("ILayer", "precision"): (FLAGS, True),
    ("ILayer", "set_output_type"): (FLAGS, True),
    ("IBuilderConfig", "set_memory_pool_limit"): (("IBuilderConfig", "set_memory_pool_limit"), True),
    ("MemoryPoolType", "WORKSPACE"): (("IBuilderConfig", "set_memory_pool_limit"), True),
    ("trt", "MemoryPoolType"): (("IBuilderConfig", "set_memory_pool_limit"), True),
    ("IBuilderConfig", "max_workspace_size"): (("IBuilderConfig", "set_memory_pool_limit"), False),
    ("trt", "ComputeCapability"): (("trt", "ComputeCapability"), True),
    ("IBuilderConfig", "num_compute_capabilities"): (("trt", "ComputeCapability"), True),
    ("IBuilderConfig", "set_compute_capability"): (("trt", "ComputeCapability"), True),
    ("ICudaEngine", "num_io_tensors"): (NAMED, True),
    ("ICudaEngine", "get_tensor_name"): (NAMED, True),
    ("ICudaEngine", "get_tensor_shape"): (NAMED, True),
    ("ICudaEngine", "get_tensor_dtype"): (NAMED, True),
    ("ICudaEngine", "get_tensor_mode"): (NAMED, True),
    ("trt", "TensorIOMode"): (NAMED, True),
    ("TensorIOMode", "INPUT"): (NAMED, True),
    ("ICudaEngine", "num_bindings"): (NAMED, False),
    ("ICudaEngine", "get_binding_name"): (NAMED, False),
    ("ICudaEngine", "get_binding_shape"): (NAMED, False),
    ("ICudaEngine", "get_binding_dtype"): (NAMED, False),
    ("ICudaEngine", "binding_is_input"): (NAMED, False),
    ("ICudaEngine", "get_binding_index"): (("IExecutionContext", "execute_async_v3"), False),
    ("IExecutionContext", "set_input_shape"): (("IExecutionContext", "set_input_shape"), True),
    ("IExecutionContext", "set_binding_shape"): (("IExecutionContext", "set_input_shape"), False),
    ("IExecutionContext", "get_tensor_shape"): (("IExecutionContext", "get_tensor_shape"), True),
    ("IExecutionContext", "get_binding_shape"): (("IExecutionContext", "get_tensor_shape"), False),
    ("IExecutionContext", "set_tensor_address"): (("IExecutionContext", "set_tensor_address"), True),
    ("IExecutionContext", "execute_async_v3"): (("IExecutionContext", "execute_async_v3"), True),
    ("IExecutionContext", "execute_async_v2"): (("IExecutionContext", "execute_async_v3"), False),
    ("IPluginRegistry", "all_creators"): (("IPluginRegistry", "all_creators"), True),
    ("IPluginRegistry", "plugin_creator_list"): (("IPluginRegistry", "all_creators"), False),
    ("ParserError", "node_operator"): (("ParserError", "node_operator"), True),
    ("ParserError", "node_name"): (("ParserError", "node_operator"), True),
}


def source_of(node):
    """The dotted name of an expression, like self._engine; "" for anything else (Python 3.6 has no unparse)."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = source_of(node.value)
        return base + "." + node.attr if base else ""
    return ""


def class_of(node):
    """The class whose attribute is taken: "trt" for the module, None for what is not TensorRT's."""
    base = source_of(node)
    if base in MODULES:
        return "trt"
    for module in MODULES:
        if base.startswith(module + ".") and base.count(".") == module.count(".") + 1:
            return base.rsplit(".", 1)[-1]
    return OBJECTS.get(base)


def trees():
    return [ast.parse((DEVICE / name).read_text()) for name in FILES]


def names_used():
    """{(class, name)} of all attributes of TensorRT's objects."""
    found = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and class_of(node.value) and not node.attr.startswith("__"):
                found.add((class_of(node.value), node.attr))
    return found


def names_probed():
    """{(class, name)} that the source asks for with hasattr, or getattr with a default."""
    found = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and source_of(node.func) in ("hasattr", "getattr"):
                literal = node.args[1]
                name = literal.value if hasattr(literal, "value") else getattr(literal, "s", None)
                owner = class_of(node.args[0]) or (source_of(node.args[0]).split(".")[-1])
                found.add((owner, name))
    return found


def has(version, owner, name):
    classes, attributes = surface(version)
    return name in attributes or name in classes if owner == "trt" else name in classes.get(owner, ())


def test_the_source_is_read():
    used = names_used()
    assert {("Builder", "build_serialized_network"), ("trt", "BuilderFlag"), ("BuilderFlag", "TF32")} <= used
    assert len(used) > 50


def test_tensorrt_is_touched_nowhere_else():
    for path in DEVICE.rglob("*.py"):
        if path.name in FILES or "generated" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        touched = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and source_of(node.value) in MODULES
        }
        assert touched == set(), path


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_exists_in_every_version_that_gets_there(version):
    missing = []
    for owner, name in sorted(names_used()):
        probe, wanted = PROBED.get((owner, name), (None, None))
        leads_here = probe is None or has(version, *probe) == wanted
        if leads_here and not has(version, owner, name):
            missing.append("{}.{}".format(owner, name))
    assert missing == []


def test_every_probe_is_asked_in_the_source():
    assert {probe for probe, _ in PROBED.values()} <= names_probed()


def test_the_table_has_no_name_that_is_not_used_or_not_probed_for_a_reason():
    used = names_used()
    assert set(PROBED) - used == set()
    for owner, name in PROBED:
        assert not all(has(version, owner, name) for version in VERSIONS), (owner, name)


def test_the_double_offers_what_is_recorded_and_no_more():
    # Recorded differences that this project rests on; a wrong surface file would hide a wrong name.
    assert not has("8.2", "IBuilderConfig", "set_memory_pool_limit")
    assert has("8.6", "IBuilderConfig", "set_memory_pool_limit")
    assert has("8.6", "ICudaEngine", "num_bindings")
    assert has("8.6", "ICudaEngine", "num_io_tensors")
    assert not has("10.0", "ICudaEngine", "num_bindings")
    assert not has("11.4", "BuilderFlag", "FP16")
    assert has("10.16", "BuilderFlag", "FP16")
