"""The two sides of the gate: a split network in torch, and the graphs in a folder on ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bottlekit.device.codecs import Codec
from bottlekit.export.equivalence import Network
from bottlekit.export.sessions import Array, Function, graph_from_file, in_batches
from bottlekit.models.network import SplitNetwork


class WithoutCodec(nn.Module):
    """A split network in one piece without its codec, which no graph can hold: image -> logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, classes)."""
        logits: torch.Tensor = self.network(image, with_codec=False)
        return logits


def network_from_torch(network: SplitNetwork, baseline: nn.Module | None) -> Network:
    """The torch network, in evaluation mode, as functions of numpy arrays."""
    return Network(
        head=_function(network.head),
        tail=_function(network.tail),
        full=_function(WithoutCodec(network)),
        split=_function(network),
        baseline=None if baseline is None else _function(baseline),
    )


@contextlib.contextmanager
def network_from_folder(folder: Path, codec: Codec, dynamic_batch: bool) -> Iterator[Network]:
    """The graphs of a bundle's folder on ONNX Runtime, loaded for the length of the `with` block.

    Graphs with a dynamic batch are fed all samples at once, others one at a time.
    """
    with contextlib.ExitStack() as stack:

        def load(part: str) -> Function:
            return stack.enter_context(graph_from_file(folder / f"{part}.onnx", None if dynamic_batch else 1))

        head, tail, full = (load(part) for part in ("head", "tail", "full"))
        baseline = load("baseline") if (folder / "baseline.onnx").exists() else None

        def split(samples: Array) -> Array:
            return tail(np.stack([codec.decode(codec.encode(feature)) for feature in head(samples)]))

        yield Network(head, tail, full, split, baseline)


def one_at_a_time(network: Network) -> Network:
    """The same network, fed single samples."""
    return Network(
        head=in_batches(network.head, 1),
        tail=in_batches(network.tail, 1),
        full=in_batches(network.full, 1),
        split=in_batches(network.split, 1),
        baseline=None if network.baseline is None else in_batches(network.baseline, 1),
    )


def _function(module: nn.Module) -> Function:
    def run(samples: Array) -> Array:
        with torch.inference_mode():
            output: Array = module(torch.from_numpy(samples)).numpy()
        return output

    return run
