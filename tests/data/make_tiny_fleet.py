"""Write tests/data/tiny_fleet: two bundles of a few kB that every ONNX Runtime since 1.10 loads.

    python tests/data/make_tiny_fleet.py        (needs onnx; the result is committed)

rb1: JPEG, with a baseline. rb2: raw, without one, so that cloud-only has to run the full graph. The weights
are random and fixed; nothing here was trained, so the class of an image means nothing.
"""

import hashlib
import json
import os
import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.quantizer import quantize

CLASSES = ["ant", "bee", "cat", "dog", "eel"]
SIDE = 8
HERE = os.path.dirname(os.path.abspath(__file__))
FLEET = os.path.join(HERE, "tiny_fleet")


def convolution(random, channels, stride):
    weight = random.standard_normal((channels, 3, 3, 3)).astype(np.float32) * 0.3
    nodes = [
        helper.make_node("Conv", ["image", "conv_w"], ["conv"], strides=[stride] * 2, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["feature"]),
    ]
    return nodes, [numpy_helper.from_array(weight, "conv_w")]


def classifier(random, values):
    weight = random.standard_normal((values, len(CLASSES))).astype(np.float32) / np.sqrt(values).astype(np.float32)
    bias = random.standard_normal(len(CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["feature"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"]),
    ]
    return nodes, [numpy_helper.from_array(weight, "fc_w"), numpy_helper.from_array(bias, "fc_b")]


def save(path, parts, source, target):
    nodes = [node for part in parts for node in part[0]]
    weights = [weight for part in parts for weight in part[1]]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, ["n", *source[1]])],
        [helper.make_tensor_value_info(target[0], TensorProto.FLOAT, ["n", *target[1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="bottlekit")
    model.ir_version = 7
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run(path, name, array):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {name: one[np.newaxis]})[0] for one in array])


def file_entry(path):
    with open(path, "rb") as file:
        data = file.read()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write_bundle(split, index, channels, stride, codec_spec, baseline):
    random = np.random.default_rng(index)
    folder = os.path.join(FLEET, split)
    os.makedirs(folder)
    side = SIDE // stride
    image, feature, logits = (3, SIDE, SIDE), (channels, side, side), (len(CLASSES),)
    head, tail = convolution(random, channels, stride), classifier(random, channels * side * side)
    path = {part: os.path.join(folder, part + ".onnx") for part in ("head", "tail", "full", "baseline")}
    save(path["head"], [head], ("image", image), ("feature", feature))
    save(path["tail"], [tail], ("feature", feature), ("logits", logits))
    save(path["full"], [head, tail], ("image", image), ("logits", logits))
    if baseline:
        other = [convolution(random, channels, stride), classifier(random, channels * side * side)]
        save(path["baseline"], other, ("image", image), ("logits", logits))

    codec = codec_from_spec(codec_spec, feature)
    golden = {"image": random.standard_normal((3, *image)).astype(np.float32)}
    golden["feature"] = run(path["head"], "image", golden["image"])
    payloads = [codec.encode(one) for one in golden["feature"]]
    golden["codes"] = np.stack([quantize(one, codec.bits)[0] for one in golden["feature"]])
    golden["decoded"] = np.stack([codec.decode(payload) for payload in payloads])
    golden["logits"] = run(path["tail"], "feature", golden["decoded"])
    golden["full_logits"] = run(path["full"], "image", golden["image"])
    if baseline:
        golden["baseline_logits"] = run(path["baseline"], "image", golden["image"])
    np.savez(os.path.join(folder, "golden.npz"), **golden)

    sizes = sorted(len(payload) for payload in payloads)
    manifest = {
        "format": "bottlekit-bundle",
        "version": 1,
        "name": f"tiny-{split}",
        "bottlekit": "0.1.0",
        "command": "python tests/data/make_tiny_fleet.py",
        "versions": {"onnx": onnx.__version__},
        "model": {"backbone": "tiny", "num_classes": len(CLASSES), "input_size": SIDE},
        "split": {
            "name": split,
            "index": index,
            "module": f"layer{index}",
            "channels": channels,
            "height": side,
            "width": side,
            "stride": stride,
        },
        "bottleneck": {"kind": "butterfly", "split": split, "channels": channels, "spatial": 1, "kernel": 3},
        "codec": codec_spec,
        "input": {"name": "image", "shape": [1, *image]},
        "feature": {"name": "feature", "shape": [1, *feature]},
        "output": {"name": "logits", "shape": [1, *logits]},
        "dynamic_batch": True,
        "preprocessing": {"resize": SIDE, "crop": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "classes": CLASSES,
        "accuracy": {"data": "none", "images": 0, "baseline": None, "split": 0.0},
        "payload_bytes": {
            "mean": sum(sizes) / len(sizes),
            "p50": sizes[1],
            "p99": sizes[-1],
            "max": sizes[-1],
            "images": 3,
        },
        "input_jpeg_bytes": None,
        "macs": {"head": 1, "tail": 1, "baseline": 2},
        "checkpoint_sha256": "0" * 64,
        "equivalence": [],
        "files": {name: file_entry(os.path.join(folder, name)) for name in sorted(os.listdir(folder))},
    }
    for name, entry in manifest["files"].items():
        if name.endswith(".onnx"):
            entry["opset"] = 13
    with open(os.path.join(folder, "bundle.json"), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    shutil.rmtree(FLEET, ignore_errors=True)
    write_bundle("rb1", 1, 2, 2, {"name": "jpeg", "bits": 8, "quality": 50}, baseline=True)
    write_bundle("rb2", 2, 5, 4, {"name": "raw", "bits": 6, "quality": 20}, baseline=False)
