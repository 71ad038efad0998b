"""The server's side: the pieces that a client's hello asks for, with weights that the client brings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from bottlekit.device.segments.source import Span
from bottlekit.device.segments.work import Work
from bottlekit.device.wire.layers import load_layers_rpc
from bottlekit.errors import BundleError, PayloadError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.specs import ModelSpec
from bottlekit.training.together.pieces import Arrays, Pieces
from bottlekit.training.together.plan import network_sha256

# Neither weights nor code come from here: a network that is too large for this is refused.
MOST_CLASSES = 100_000


class TrainingWork(Work):
    """One client's training: its pieces here, and the tensors of the step under way.

        a_k, g_k: the activation and the gradient at the boundary before piece k, as arrays of those names

    The network is built anew from the settings; a client sends all weights before it begins (LOAD).
    """

    def __init__(self, network: str, spans: list[Span], settings: dict[str, str]) -> None:
        model, cuts = _model(settings), [one for one in settings.get("cuts", "").split(",") if one]
        if network != network_sha256(model, cuts):
            raise BundleError("the hash is not that of the settings; install the same version on both sides")
        self._task = load_layers_rpc().types.Task
        backward = {int(one) for one in settings.get("backward", "").split(",") if one.isdigit()}
        if any(span.first != span.last for span in spans):
            raise BundleError("a segment of training is one piece")
        self._numbers = [span.first for span in spans]
        try:
            with torch.random.fork_rng():
                built = backbone_from_name(model.backbone, model.num_classes)
            self._pieces = Pieces(built, cuts, backward, settings)
        except UsageError as error:
            raise BundleError(str(error)) from None
        self._names = {f"{letter}{at}" for letter in "ag" for at in range(len(self._pieces.modules) + 1)}
        if any(not 0 <= number < len(self._pieces.modules) for number in self._numbers):
            raise BundleError(f"the cuts make {len(self._pieces.modules)} pieces")
        self._held: dict[str, torch.Tensor] = {}

    def run(
        self,
        task: int,
        segment: int,
        arrays: dict[str, npt.NDArray[np.generic]],
        wanted: list[str],
    ) -> Arrays:
        """LOAD, STATE, FORWARD, BACKWARD of a piece, or APPLY; see `layers.thrift`."""
        if not 0 <= segment < len(self._numbers):
            raise PayloadError(f"there is no segment {segment} in the hello")
        piece = self._numbers[segment]
        if task == self._task.LOAD:
            self._pieces.load(piece, arrays)
            return {}
        if task == self._task.STATE:
            return self._pieces.state(piece)
        if task == self._task.APPLY:
            self._apply(arrays)
            return {}
        for name, value in arrays.items():
            if name not in self._names or value.dtype != np.float32:
                raise PayloadError(f"{name[:20]} is no activation and no gradient")
            self._held[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
        if task == self._task.FORWARD:
            self._held[f"a{piece + 1}"] = self._pieces.forward(piece, self._taken(f"a{piece}"))
        elif task == self._task.BACKWARD:
            gradient = self._pieces.backward(piece, self._taken(f"g{piece + 1}"), self._held.get(f"a{piece}"))
            if gradient is not None:
                self._held[f"g{piece}"] = gradient
        else:
            raise PayloadError(f"task {task} is not for training")
        return {name: self._taken(name).numpy() for name in wanted}

    def close(self) -> None:
        """Free what the step under way has left."""
        self._held = {}
        self._pieces.forget()

    def _apply(self, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
        bits = arrays.get("rate_bits")
        if bits is None or bits.dtype != np.int64 or bits.shape != ():
            raise PayloadError("the step lacks its learning rate")
        rate = float(np.asarray(bits).view(np.float64))
        if not 0.0 <= rate < 1e6:
            raise PayloadError(f"{rate} is no learning rate")
        self._pieces.step(rate)
        self._held = {}

    def _taken(self, name: str) -> torch.Tensor:
        if name not in self._held:
            raise PayloadError(f"{name} is not here")
        return self._held[name]


def _model(settings: dict[str, str]) -> ModelSpec:
    try:
        model = ModelSpec(settings["backbone"], int(settings["classes"]), int(settings["input_size"]))
    except (KeyError, ValueError, UsageError) as error:
        raise BundleError(f"the network's settings are damaged: {error}") from None
    if model.num_classes > MOST_CLASSES or model.input_size > 1024:
        raise PayloadError(f"a network for {model.num_classes} classes and {model.input_size} pixels is too large")
    return model


def use_threads(threads: int | None) -> None:
    """Torch's threads for the work of this process; None leaves them."""
    if threads is not None:
        torch.set_num_threads(threads)
