"""From a checkpoint to a bundle that is proved equivalent, or to nothing.

checkpoint --source--> torch network --graphs--> head, tail, full, baseline .onnx   (in a temporary folder)
                            |                          |
                            +------- equivalence ------+   any difference: the folder is removed, error
                                                       |
                   training images ---- codec_choice ----> codec.npz
                   held-out images ---- measure, golden -> bundle.json, golden.npz --> renamed to its place
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

import bottlekit
from bottlekit.device.bundle import CODEC_FILE, FORMAT, VERSION, Bundle
from bottlekit.device.codecs import Codec
from bottlekit.device.fields import is_safe_name
from bottlekit.device.files import sha256_of_file, whole_folder, write_json
from bottlekit.errors import UsageError
from bottlekit.export.codec_choice import fit_codec
from bottlekit.export.codec_fit import CodecRequest
from bottlekit.export.equivalence import (
    Comparison,
    Network,
    codec_codes,
    compare_network,
    expected_from_network,
    require,
)
from bottlekit.export.graphs import onnx_from_module, write_onnx
from bottlekit.export.held_out import HeldOut, held_out_from_checkpoint
from bottlekit.export.measure import measure, measure_on_random
from bottlekit.export.networks import WithoutCodec, network_from_folder, network_from_torch, one_at_a_time
from bottlekit.export.sessions import Array
from bottlekit.export.source import Source, Untrained, source_from_file
from bottlekit.models.macs import macs
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import to_dict
from bottlekit.training.data import name_to_show

# Inputs of the gate, which also become the golden arrays.
REAL_IMAGES = 8
RANDOM_IMAGES = 2
SEED = 0


# Held-out accuracy of the graphs and of the network in training differ by more than single images.
ACCURACY_GAP = 0.02

Listener = Callable[[str], None]


def _silent(_message: str) -> None:
    """Nobody listens."""


def bundle_from_checkpoint(
    checkpoint_path: str | Path,
    out_dir: str | Path,
    split: str | None = None,
    dynamic_batch: bool = True,
    images: int | None = None,
    force: bool = False,
    command: str = "",
    data_root: str | Path | None = None,
    untrained: Untrained | None = None,
    codec: CodecRequest | None = None,
    say: Listener = _silent,
    progress: Listener = _silent,
    name: str | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint to the folder `out_dir`, whole or not at all, and load it.

    `images` bounds how many held-out images are measured (all of them if None); `data_root` is where the data
    set lies now; `untrained` puts a unit nobody trained into a backbone; `codec` asks for another codec than the
    network was trained with; `say` takes notes for people, `progress` what is being done at the moment. `name` is
    the bundle's, None for the backbone's and the split point's.

    Raises UsageError, UnknownNameError, CheckpointError, DataError or CodecError for what does not fit (see
    `source`, `held_out` and `codec_choice`), and EquivalenceError if a graph does not compute what the network
    computes.
    """
    if name is not None and not is_safe_name(name):
        raise UsageError(f"--name is a part of file names, of letters, digits and . _ -, and '{name}' is not")
    source = source_from_file(Path(checkpoint_path), split, untrained)
    trained_with = source.network.codec
    root = Path(data_root) if data_root else None
    held_out = held_out_from_checkpoint(source.checkpoint, root, images, say)
    samples = gate_inputs(source.network.model.input_size, held_out)
    with whole_folder(str(out_dir), force=force) as temporary:
        folder = Path(temporary)
        opsets = write_graphs(source.network, source.baseline, folder, dynamic_batch, progress)
        found = fit_codec(source, folder, codec or CodecRequest(), held_out, root, dynamic_batch, say, progress)
        coder = found.codec
        with network_from_folder(folder, coder, dynamic_batch) as graphs:
            progress("comparing the graphs with the network")
            comparisons = prove(source.network, source.baseline, graphs, samples, dynamic_batch)
            progress("computing the golden arrays")
            golden = golden_arrays(one_at_a_time(graphs), coder, samples)
            if held_out is None:
                measured = measure_on_random(golden["feature"], coder, _accuracy_of_training(source))
            else:
                measured = measure(
                    graphs,
                    coder,
                    held_out,
                    source.trained,
                    lambda done, total: progress(f"measuring on held-out images: {done} of {total}"),
                )
        if found.spec == trained_with:
            _compare_with_training(source, measured["accuracy"], say)
        np.savez_compressed(folder / "golden.npz", **golden)
        if found.tables:
            np.savez_compressed(folder / CODEC_FILE, **found.tables)  # type: ignore[arg-type]
        manifest = {
            **_description(source, command, dynamic_batch, name),
            "codec": {**to_dict(found.spec), "version": coder.version},
            "codec_choice": found.choice,
            **measured,
            "macs": _macs(source),
            "checkpoint_sha256": source.sha256,
            "equivalence": [comparison.to_dict() for comparison in comparisons],
            "files": _files(folder, opsets),
        }
        write_json(str(folder / "bundle.json"), manifest)
        Bundle.load(temporary)
    return Bundle.load(str(out_dir), verify=False)


def write_graphs(
    network: SplitNetwork,
    baseline: nn.Module | None,
    folder: Path,
    dynamic_batch: bool,
    progress: Listener = _silent,
) -> dict[str, int]:
    """Write head, tail, full and (where there is one) baseline .onnx; return {file name: opset read back}."""
    size = network.model.input_size
    image, feature = torch.zeros(1, 3, size, size), torch.zeros(1, *network.feature_shape)
    parts: list[tuple[str, nn.Module, torch.Tensor, str, str]] = [
        ("head", network.head, image, "image", "feature"),
        ("tail", network.tail, feature, "feature", "logits"),
        ("full", WithoutCodec(network), image, "image", "logits"),
    ]
    if baseline is not None:
        parts.append(("baseline", baseline, image, "image", "logits"))
    opsets = {}
    for part, module, example, input_name, output_name in parts:
        progress(f"writing {part}.onnx")
        model = onnx_from_module(module, example, input_name, output_name, dynamic_batch)
        opsets[f"{part}.onnx"] = write_onnx(model, folder / f"{part}.onnx")
    return opsets


def prove(
    network: SplitNetwork, baseline: nn.Module | None, graphs: Network, samples: Array, dynamic_batch: bool
) -> list[Comparison]:
    """Compare the torch network with its graphs on `samples` (k, 3, h, w): one at a time, and with a dynamic
    batch all at once too. Raises EquivalenceError if anything differs by more than rounding."""
    codec = network.codec_layer.codec
    expected = expected_from_network(network_from_torch(network, baseline), codec, samples)
    comparisons = compare_network(expected, one_at_a_time(graphs), codec, batch=1)
    if dynamic_batch:
        comparisons += compare_network(expected, graphs, codec, batch=len(samples))
    require(comparisons)
    return comparisons


def gate_inputs(input_size: int, held_out: HeldOut | None) -> Array:
    """Network inputs (k, 3, size, size): held-out images spread over the data set, then random ones."""
    random = np.random.default_rng(SEED)
    if held_out is None:
        count = REAL_IMAGES + RANDOM_IMAGES
        return random.standard_normal((count, 3, input_size, input_size), dtype=np.float32)
    real_count = min(REAL_IMAGES, len(held_out))
    real = [held_out.inputs(range(place, place + 1))[0] for place in _spread(real_count, len(held_out))]
    noise = random.standard_normal((RANDOM_IMAGES, 3, input_size, input_size), dtype=np.float32)
    return np.concatenate([np.stack(real), noise])


def golden_arrays(network: Network, codec: Codec, samples: Array) -> dict[str, Any]:
    """What every stage must make of `samples` (k, 3, h, w), one at a time, on FP32 ONNX Runtime."""
    feature = network.head(samples)
    decoded = np.stack([codec.decode(codec.encode(one)) for one in feature])
    arrays = {
        "image": samples,
        "feature": feature,
        "codes": codec_codes(feature, codec),
        "decoded": decoded,
        "logits": network.tail(decoded),
        "full_logits": network.full(samples),
    }
    if network.baseline is not None:
        arrays["baseline_logits"] = network.baseline(samples)
    return arrays


def _spread(count: int, total: int) -> list[int]:
    return [place * total // count for place in range(count)]


def _accuracy_of_training(source: Source) -> dict[str, Any] | None:
    """The accuracy in the checkpoint's header, in bundle.json's form; None if it has none."""
    header = source.checkpoint.accuracy
    if not source.trained or header.get("split") is None:
        return None
    return {
        "data": name_to_show(source.checkpoint.data),
        "images": header.get("images"),
        "baseline": header.get("baseline"),
        "split": header["split"],
        "measured_on": "checkpoint",
    }


def _compare_with_training(source: Source, accuracy: dict[str, Any] | None, say: Listener) -> None:
    """Tell if the graphs' accuracy is not that of training: other data, perhaps."""
    header = source.checkpoint.accuracy.get("split")
    if accuracy is not None and header is not None and abs(accuracy["split"] - header) > ACCURACY_GAP:
        say(
            f"the graphs reach {accuracy['split']:.2%} on {accuracy['images']} held-out images of "
            f"{accuracy['data']}, and training reported {header:.2%}: is it the same data?"
        )


def written_by(command: str) -> dict[str, Any]:
    """What of a manifest says which program, with which libraries, wrote the bundle."""
    return {
        "bottlekit": bottlekit.__version__,
        "command": command,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def _description(source: Source, command: str, dynamic_batch: bool, name: str | None) -> dict[str, Any]:
    network, checkpoint = source.network, source.checkpoint
    size = network.model.input_size
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name or f"{network.model.backbone}-{network.split.name}",
        **written_by(command),
        "model": to_dict(network.model),
        "split": to_dict(network.split),
        "bottleneck": to_dict(network.bottleneck),
        "untrained": not source.trained,
        "input": {"name": "image", "shape": [1, 3, size, size]},
        "feature": {"name": "feature", "shape": [1, *network.feature_shape]},
        "output": {"name": "logits", "shape": [1, network.model.num_classes]},
        "dynamic_batch": dynamic_batch,
        "preprocessing": to_dict(checkpoint.preprocessing),
        "classes": list(checkpoint.classes),
    }


def _macs(source: Source) -> dict[str, int | None]:
    """Multiply-accumulates for one image."""
    size = source.network.model.input_size
    return {
        "head": macs(source.network.head, (1, 3, size, size)),
        "tail": macs(source.network.tail, (1, *source.network.feature_shape)),
        "baseline": None if source.baseline is None else macs(source.baseline, (1, 3, size, size)),
    }


def _files(folder: Path, opsets: dict[str, int]) -> dict[str, dict[str, Any]]:
    """sha256, bytes and (of graphs) opset of every file in the folder, which holds no bundle.json yet."""
    return {
        path.name: {
            "sha256": sha256_of_file(str(path)),
            "bytes": path.stat().st_size,
            **({"opset": opsets[path.name]} if path.name in opsets else {}),
        }
        for path in sorted(folder.iterdir())
    }
