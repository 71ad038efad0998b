"""From a torch module to a checked ONNX graph.

    module --(TorchScript exporter, opset 13)--> model --(fold)--> model --(check)--> file --(read back)--> done

Why the TorchScript exporter and opset 13: the newer exporter (`dynamo=True`) asked for opset 13 quietly stays
at 18 and writes `ReduceMean` with its axes as an input. Every TensorRT parser before 10.0 ignores that input
and averages over all axes: wrong numbers, no error. Opset 13 is what the oldest parser (TensorRT 8.2) knows,
so one file serves every target. Whatever an exporter promises, the opset is read back from what it wrote.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch

from bottlekit.device.files import whole_file
from bottlekit.errors import EquivalenceError, UsageError
from bottlekit.export.lowering import WEIGHTED

OPSET = 13
BATCH = "n"


def onnx_from_module(
    module: torch.nn.Module,
    example: torch.Tensor,
    input_name: str,
    output_name: str | Sequence[str],
    dynamic_batch: bool,
) -> onnx.ModelProto:
    """The graph of `module` in evaluation mode: one input, one output or those named, FP32, opset 13, checked.

    `example` (n, c, h, w) fixes the shapes; with `dynamic_batch` its first dimension becomes the symbol "n" in
    the input and the output. The module is left in the mode it was in.

    Raises UsageError if the network uses something opset 13 cannot say, EquivalenceError if what was written is
    not what was asked for.
    """
    output_names = [output_name] if isinstance(output_name, str) else list(output_name)
    axes = {name: {0: BATCH} for name in [input_name, *output_names]} if dynamic_batch else None
    was_training = module.training
    module.eval()
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _silent_stdout():
            path = os.path.join(folder, "graph.onnx")
            # It says on every call that it is the old exporter; that is the one that is meant (see above).
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=True,
                input_names=[input_name],
                output_names=output_names,
                dynamic_axes=axes,
            )
            model = onnx.load_model(path)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise UsageError(
            f"ONNX opset {OPSET} cannot express this network for an input of shape {tuple(example.shape)} "
            f"({reason}); use the input size the network was made for"
        ) from error
    finally:
        module.train(was_training)
    initialisers_from_constants(model.graph)
    fold_identities(model.graph)
    check_model(model, input_name, output_names, dynamic_batch)
    return model


def initialisers_from_constants(graph: onnx.GraphProto) -> None:
    """Turn `Constant` nodes into initialisers, in place: TensorRT 8.2 wants Clip's bounds to be initialisers."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if len(values) != 1:
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(values[0])
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def fold_identities(graph: onnx.GraphProto) -> None:
    """Remove `Identity` in front of uses of an initialiser, in place.

    The exporter writes them when two parameters are bit-identical (fresh batch norms are), and TensorRT 8.2
    then refuses the Conv behind them because its weights are no initialisers any more.
    """
    initialisers = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    origin: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type != "Identity" or node.output[0] in outputs:
            continue
        source = origin.get(node.input[0], node.input[0])
        if source in initialisers:
            origin[node.output[0]] = source
            graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [origin.get(name, name) for name in node.input]


def check_model(
    model: onnx.ModelProto, input_name: str, output_name: str | Sequence[str], dynamic_batch: bool
) -> None:
    """Raise EquivalenceError unless `model` is the kind of graph every target can read.

    Asked for: valid by the ONNX checker, opset 13 and nothing beside it, exactly the named input and outputs in
    FP32 with the batch dimension as asked, weights that are initialisers, perhaps rounded by a pair of
    QuantizeLinear and DequantizeLinear, everything inside the one file.
    """
    output_names = [output_name] if isinstance(output_name, str) else list(output_name)
    what = f"the graph {input_name} -> {', '.join(output_names)}"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EquivalenceError(f"{what} is not valid ONNX: {error}") from error
    check_opset(model, what)
    graph = model.graph
    for kind, values, wanted in (("input", graph.input, [input_name]), ("output", graph.output, output_names)):
        names = [value.name for value in values]
        if names != wanted:
            raise EquivalenceError(f"{what} has the {kind}s {names}, not just {', '.join(wanted)}")
        for value in values:
            _check_value(value, dynamic_batch, what)
    initialisers = {tensor.name for tensor in graph.initializer}
    initialisers |= _rounded_initialisers(graph, initialisers)
    for node in graph.node:
        computed = [name for name in node.input[1:] if name and name not in initialisers]
        if node.op_type in WEIGHTED and computed:
            raise EquivalenceError(
                f"{what}: the weights {computed} of {node.op_type} {node.name} are no initialisers"
            )
    outside = [t.name for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise EquivalenceError(f"{what} keeps {', '.join(outside)} outside the file")


def _check_value(value: onnx.ValueInfoProto, dynamic_batch: bool, what: str) -> None:
    """Raise EquivalenceError unless an input or output is FP32 with the batch dimension as asked."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        type_name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise EquivalenceError(f"{what}: {value.name} is {type_name}, not FLOAT")
    batch = tensor.shape.dim[0]
    if (batch.dim_param == BATCH) != dynamic_batch:
        asked = f"the symbol {BATCH}" if dynamic_batch else "fixed"
        raise EquivalenceError(
            f"{what}: the batch dimension of {value.name} is {batch.dim_param or batch.dim_value}, not {asked}"
        )


def _rounded_initialisers(graph: onnx.GraphProto, initialisers: set[str]) -> set[str]:
    """The outputs of DequantizeLinear(QuantizeLinear(initialiser)): how compilers want to read INT8 weights."""
    codes = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in initialisers}
    return {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in codes}


def check_opset(model: onnx.ModelProto, what: str) -> None:
    """Raise EquivalenceError unless the model says opset 13 of the standard operators, and no other set."""
    written = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if written != {"ai.onnx": OPSET}:
        raise EquivalenceError(
            f"{what} was written with {written}, not with ai.onnx opset {OPSET}: "
            "TensorRT parsers before 10.0 would read it wrongly without a word"
        )


def write_onnx(model: onnx.ModelProto, path: Path) -> int:
    """Write `model` whole to `path`; return the opset read back from the file (13, or EquivalenceError)."""
    with whole_file(str(path)) as temporary:
        onnx.save_model(model, temporary, save_as_external_data=False)
        written = onnx.load_model(temporary, load_external_data=False)
        check_opset(written, path.name)
    return int(next(entry.version for entry in written.opset_import))


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Send what C++ code prints to nowhere.

    When the exporter fails, it prints its whole inner graph on standard output, where JSON may be expected; the
    reason is in the exception.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        # What C++ has not written yet would otherwise come out after the redirection ends.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
