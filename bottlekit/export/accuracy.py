"""What lowering one part costs in accuracy: top-1 on held-out images, the other parts in FP32.

::

    head       image -> lowered head -> codec -> tail -> class
    tail       image -> head -> codec -> lowered tail -> class
    full, baseline      image -> lowered graph -> class
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bottlekit.device.bundle import Bundle
from bottlekit.export.sessions import Array, Function, function_from_model

if TYPE_CHECKING:
    from bottlekit.export.held_out import HeldOut

BATCH = 16


def accuracy_of(
    bundle: Bundle, part: str, lowered: onnx.ModelProto, precision: str, images: HeldOut
) -> dict[str, Any]:
    """Fractions of `images` classified rightly with `part` in FP32 and `lowered`, on ONNX Runtime as written."""
    batch = None if bundle.dynamic_batch else 1
    ours = function_from_model(lowered, batch, optimised=False)
    right = {"fp32": 0, precision: 0}
    functions = {
        name: function_from_model(onnx.load(bundle.onnx_path(name)), batch)
        for name in (("head", "tail") if part in ("head", "tail") else (part,))
    }
    for indices in images.batches(BATCH):
        inputs = images.inputs(indices)
        labels = np.array([images.labels[index] for index in indices])
        for name, changed in (("fp32", {}), (precision, {part: ours})):
            right[name] += int(np.count_nonzero(_classes(bundle, {**functions, **changed}, inputs) == labels))
    return {
        "measured": True,
        "data": images.name,
        "images": len(images),
        **{name: count / len(images) for name, count in right.items()},
    }


def decoded_features(bundle: Bundle, features: Array) -> Array:
    """Features (n, c, h, w) as the tail receives them: through the codec, one after the other."""
    return np.stack([bundle.codec.decode(bundle.codec.encode(feature)) for feature in features])


def _classes(bundle: Bundle, functions: dict[str, Function], inputs: Array) -> Array:
    """The classes (n,) of network inputs (n, 3, h, w), through both halves or the one graph there is."""
    if "head" in functions:
        logits = functions["tail"](decoded_features(bundle, functions["head"](inputs)))
    else:
        (whole,) = functions.values()
        logits = whole(inputs)
    classes: Array = logits.argmax(axis=1)
    return classes
