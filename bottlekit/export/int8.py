"""INT8 written into a graph: what is rounded, and by which scale, stands in the ONNX.

::

    image --Q--DQ--> Conv --> Relu --Q--DQ--> Conv --> feature          Q QuantizeLinear, DQ DequantizeLinear
            weights --Q--DQ--^      weights --Q--DQ--^

Inputs and weights of convolutions and matrix products are rounded to 8 bits, symmetrically (zero point 0, which is
all that TensorRT knows), weights with a scale for each output channel, inputs with one scale: the largest magnitude
seen on calibration images. Biases, sums of residual blocks and the graph's outputs stay FP32. At opset 13, with the
three inputs that TensorRT 8.2 wants, one graph serves every compiler, and ONNX Runtime computes the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bottlekit.errors import EngineError
from bottlekit.export.sessions import Array

# What runs in INT8 on a GPU: everything else is not worth rounding its inputs.
QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class _Samples:
    """Calibration samples one after the other, as ONNX Runtime's calibrator asks for them."""

    def __init__(self, name: str, samples: Array) -> None:
        self._feeds: Iterator[dict[str, Array]] = (
            {name: samples[place : place + 1]} for place in range(len(samples))
        )

    def get_next(self) -> dict[str, Array] | None:
        """The next sample, None after the last."""
        return next(self._feeds, None)


def int8_model(model: onnx.ModelProto, samples: Array, layers: Sequence[str] | None = None) -> onnx.ModelProto:
    """An FP32 `model` with Q/DQ pairs around its weighted layers, calibrated on `samples` (k, ...) of its input.

    `layers` are the names of the nodes that are rounded, None all that can be. EngineError if there is nothing to
    quantise, or the samples give NaN or infinity somewhere.
    """
    # Here, because it takes a second to import, and only INT8 builds need it.
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if not np.isfinite(samples).all():
        raise EngineError("the samples to calibrate with hold NaN or infinity; give other images")
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # Bundles are folded and have their shapes: without this mark the quantiser asks for a step that does just that.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="bottlekit-") as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        quantize_static(
            source,
            target,
            _Samples(model.graph.input[0].name, samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=list(layers or ()),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                # TensorRT wants FP32 weights with both nodes behind them, and biases as they are.
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(QUANTISED),
            },
        )
        quantised = onnx.load(target)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    _check(quantised, model)
    return quantised


def binary_layers(model: onnx.ModelProto) -> list[str]:
    """The names of the convolutions whose filters have a single magnitude each: those of a binary network's edge.

    Behind a sign they are exact in INT8: inputs and weights are the largest code or its negative.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            magnitudes = np.abs(weights[node.input[1]]).reshape(len(weights[node.input[1]]), -1)
            if magnitudes.shape[1] > 1 and (magnitudes == magnitudes[:, :1]).all():
                found.append(node.name)
    return found


def _check(quantised: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Raise EngineError unless the graph is one that every TensorRT since 8.2 reads as explicit INT8."""
    if list(quantised.opset_import) != list(model.opset_import):
        raise EngineError("the quantiser changed the graph's opset; install the onnxruntime of constraints.txt")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    pairs = [node for node in quantised.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if not pairs:
        raise EngineError("the graph has no convolution and no matrix product, so nothing of it can be INT8")
    for node in pairs:
        scale, zero = constants.get(node.input[1]), constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or zero is None or zero.dtype != np.int8 or zero.any():
            raise EngineError(f"{node.name} is not symmetric INT8; install the onnxruntime of constraints.txt")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise EngineError(f"{node.name}: the calibration images give NaN, infinity or nothing at all there")
