"""A network in pieces for training: forward, backward and the optimiser's step of each, as named arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bottlekit.errors import PayloadError, UsageError
from bottlekit.models.cut import segments

Arrays = dict[str, npt.NDArray[np.generic]]
# A name of the optimiser's state: this, its key, and the weight it belongs to.
_STATE = "optimizer/"


class Pieces:
    """The pieces of `network`, cut at the outputs of the modules `cuts`, and one optimiser of those in `owned`.

        a_k (input of piece k) --forward--> a_k+1        g_k+1 (gradient of its output) --backward--> g_k

    A backward whose forward ran elsewhere runs it again here, on the same input with the same weights. The pieces
    share the network's modules. `optimizer`: of the recipe, over the parameters of the owned pieces.
    """

    def __init__(
        self, network: nn.Module, cuts: Sequence[str], owned: Iterable[int], settings: Mapping[str, str]
    ) -> None:
        # As training on one machine does, so that the sums have the same order.
        self.network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules = segments(network, list(cuts))
        self.owned = sorted(set(owned))
        wrong = [one for one in self.owned if not 0 <= one < len(self.modules)]
        if wrong:
            raise PayloadError(f"there is no piece {wrong[0]}; they are 0..{len(self.modules) - 1}")
        self.optimizers = {
            one: optimizer_from_settings(dict(self.modules[one].named_parameters()), settings) for one in self.owned
        }
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, piece: int, value: Tensor) -> Tensor:
        """The piece's output, kept with its input if its backward runs here."""
        if piece not in self.optimizers:
            with torch.no_grad():
                return self.modules[piece](_arranged(value))  # type: ignore[no-any-return]
        return self._forward(piece, value).detach()

    def backward(self, piece: int, gradient: Tensor, value: Tensor | None = None) -> Tensor | None:
        """From the gradient of the output to that of the input, None for the first piece; weights' are kept.

        `value` is the input where the forward ran elsewhere.
        """
        if piece not in self._kept:
            if value is None:
                raise PayloadError(f"the backward of piece {piece} lacks its forward's input")
            self._forward(piece, value)
        before, after = self._kept.pop(piece)
        torch.autograd.backward(after, _arranged(gradient))
        return before.grad

    def step(self, rate: float) -> None:
        """The optimiser's step on the owned pieces; PayloadError if a backward is missing."""
        for one in self.owned:
            weights = list(self.modules[one].parameters())
            if weights and all(weight.grad is None for weight in weights):
                raise PayloadError(f"the step comes before the backward of piece {one}")
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop what a step has left: kept tensors and gradients."""
        self._kept = {}
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def state(self, piece: int) -> Arrays:
        """A piece's weights and buffers, and the optimiser's state of them where it is owned."""
        found = {name: value.detach().cpu().numpy() for name, value in self.modules[piece].state_dict().items()}
        optimizer = self.optimizers.get(piece)
        if optimizer is not None:
            for name, weight in self.modules[piece].named_parameters():
                for key, value in optimizer.state[weight].items():
                    if isinstance(value, Tensor):
                        found[f"{_STATE}{key}/{name}"] = value.detach().cpu().numpy()
        return found

    def load(self, piece: int, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Take what `state` gave. PayloadError for weights that are missing, unknown, or of another shape."""
        own = self.modules[piece].state_dict()
        weights = {name: value for name, value in arrays.items() if not name.startswith(_STATE)}
        if set(weights) != set(own):
            different = sorted(set(weights) ^ set(own))
            raise PayloadError(f"the weights of piece {piece} are others than sent: {different[0]}")
        for name, value in weights.items():
            tensor = torch.from_numpy(value.copy())
            if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
                raise PayloadError(f"{name} must be {tuple(own[name].shape)}, not {tuple(tensor.shape)}")
            with torch.no_grad():
                own[name].copy_(tensor)
        optimizer = self.optimizers.get(piece)
        if optimizer is None:
            return
        parameters = dict(self.modules[piece].named_parameters())
        optimizer.state.clear()
        for name, value in arrays.items():
            if name.startswith(_STATE):
                key, _, weight = name[len(_STATE) :].partition("/")
                if weight not in parameters or value.shape not in ((), tuple(parameters[weight].shape)):
                    raise PayloadError(f"{name} belongs to no weight of piece {piece}")
                optimizer.state[parameters[weight]][key] = torch.from_numpy(value.copy())

    def _forward(self, piece: int, value: Tensor) -> Tensor:
        # A piece may write into what it is given, and its input's gradient is wanted but for the image's.
        before = _arranged(value).detach().requires_grad_(piece > 0)
        with torch.enable_grad():
            after = self.modules[piece](before)
        self._kept[piece] = (before, after)
        return after  # type: ignore[no-any-return]


def _arranged(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def optimizer_from_settings(
    parameters: Mapping[str, nn.Parameter], settings: Mapping[str, str]
) -> torch.optim.Optimizer:
    """The recipe's optimiser from settings as text: `optimizer` (sgd, adamw), `momentum`, `weight_decay`.

    Weight decay is for weights, not for biases and norms, as in training on one machine.
    """
    try:
        momentum, decay = float(settings["momentum"]), float(settings["weight_decay"])
        kind = settings["optimizer"]
    except (KeyError, ValueError) as error:
        raise UsageError(f"the optimiser's settings are damaged: {error}") from None
    weights = list(parameters.values())
    groups = [
        {"params": [one for one in weights if one.ndim > 1], "weight_decay": decay},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if not weights:
        groups = [{"params": [nn.Parameter(torch.zeros(()))], "weight_decay": 0.0}]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
    raise UsageError(f"no optimiser '{kind}'; there are: sgd, adamw")
