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
from bottlekit.export.sessions import Array, Function, graph_from_file
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
def network_from_folder(folder: Path, codec: Codec, batch: int | None, baseline: bool) -> Iterator[Network]:
    """The graphs of a bundle's folder on ONNX Runtime, fed `batch` samples at a time (None: all at once)."""
    with contextlib.ExitStack() as stack:
        head, tail, full = (
            stack.enter_context(graph_from_file(folder / f"{part}.onnx", batch))
            for part in ("head", "tail", "full")
        )
        whole = stack.enter_context(graph_from_file(folder / "baseline.onnx", batch)) if baseline else None

        def split(samples: Array) -> Array:
            return tail(np.stack([codec.decode(codec.encode(feature)) for feature in head(samples)]))

        yield Network(head, tail, full, split, whole)


def _function(module: nn.Module) -> Function:
    def run(samples: Array) -> Array:
        with torch.inference_mode():
            output: Array = module(torch.from_numpy(samples)).numpy()
        return output

    return run
