"""What a training step makes smaller.

Classification    cross-entropy of the labels                                  [+ weight * estimated bytes]
Imitation         how far the restored feature and the logits are from those
                  of the network without its bottleneck                        [+ weight * estimated bytes]
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from bottlekit.models.network import SplitNetwork
from bottlekit.training.rate import RateEstimate

Self = TypeVar("Self", bound="Objective")


class Objective(nn.Module):
    """Images and labels to (loss, estimated bytes of a payload, or None where nothing estimates them).

    `network` is what is trained. `rate_weight` is what one byte of a payload adds to the loss.
    """

    def __init__(self, network: nn.Module, rate: RateEstimate | None = None, rate_weight: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.rate = rate
        self.rate_weight = rate_weight

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w), labels (n,)."""
        raise NotImplementedError

    def _weighed(self, loss: Tensor, feature: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.rate is None or feature is None:
            return loss, None
        estimate = self.rate(feature).mean()
        return loss + self.rate_weight * estimate, estimate.detach()


class Classification(Objective):
    """The labels, through the network as it will serve.

    `with_codec` is None for a network that has none; False leaves it out, and then there is no rate either.
    `codec` takes the place of the network's own.
    """

    def __init__(
        self,
        network: nn.Module,
        with_codec: bool | None = None,
        label_smoothing: float = 0.0,
        rate: RateEstimate | None = None,
        rate_weight: float = 0.0,
        codec: nn.Module | None = None,
    ) -> None:
        super().__init__(network, rate, rate_weight)
        self.with_codec = with_codec
        self.codec = codec
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w), labels (n,)."""
        feature = None
        if isinstance(self.network, SplitNetwork) and (self.rate is not None or self.codec is not None):
            feature = self.network.head(images)
            logits = self.network.tail((self.codec or self.network.codec_layer)(feature))
        else:
            logits = self.network(images, **({} if self.with_codec is None else {"with_codec": self.with_codec}))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        return self._weighed(loss, feature)


class Imitation(Objective):
    """The unit alone, taught by the network around it, which stays as it is (the warm-up of Matsubara et al.).

    image -> backbone head -> f -> unit.reduce, codec, unit.restore -> g
                              |                                        |
                              v                                        v
                          backbone tail -> teacher's logits        backbone tail -> logits
    loss = mean square of g - f, over f's variance
           + divergence of the logits from the teacher's, which tells which errors of g matter
    """

    network: SplitNetwork

    def __init__(
        self,
        network: SplitNetwork,
        rate: RateEstimate | None = None,
        rate_weight: float = 0.0,
        codec: nn.Module | None = None,
    ) -> None:
        super().__init__(network, rate, rate_weight)
        self.codec = codec

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w); the labels are not looked at."""
        head, tail = self.network.head, self.network.tail
        wanted = head.backbone(images).detach()
        feature = head.reduce(wanted)
        restored = tail.restore((self.codec or self.network.codec_layer)(feature))
        error = F.mse_loss(restored.float(), wanted.float()) / wanted.float().var().clamp(min=1e-6)
        teacher = tail.backbone(wanted).detach().float().log_softmax(1)
        answer = tail.backbone(restored).float().log_softmax(1)
        divergence = F.kl_div(answer, teacher, reduction="batchmean", log_target=True)
        return self._weighed(error + divergence, feature)

    def train(self: Self, mode: bool = True) -> Self:
        """Training mode for the unit; the backbone's norms and dropouts stay in evaluation mode."""
        super().train(mode)
        network: SplitNetwork = self.network  # type: ignore[assignment]
        network.head.backbone.eval()
        network.tail.backbone.eval()
        return self
