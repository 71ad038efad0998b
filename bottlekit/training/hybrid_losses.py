"""What the training of a hybrid network makes smaller: the losses of its exits and of its cloud.

images --every_answer--> exits, cloud --loss_of(labels, teacher's answers)--> weighted sum
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.training.objective import Objective

# Softens the teacher's answers, so that the classes it nearly chose are seen too (Hinton et al., 2015: 1 to 20).
TEACHER_TEMPERATURE = 4.0


class TaughtLosses(Objective):
    """The loss of one answer (n, classes):   (1 - taught) * CE(label) + taught * T^2 * KL(teacher / T, answer / T)

    Hinton et al., 2015. `teacher` is the full-precision network, which stays as it is; None needs `taught` 0.
    """

    network: HybridNetwork

    def __init__(
        self,
        network: HybridNetwork,
        label_smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        taught: float = 0.0,
    ) -> None:
        super().__init__(network)
        self.label_smoothing = label_smoothing
        self.taught = taught if teacher is not None else 0.0
        # In a list, so that nobody takes the teacher's weights for something to train or to keep.
        self._teacher = [] if teacher is None or not taught else [copy.deepcopy(teacher).eval()]

    def wanted(self, images: Tensor) -> Tensor | None:
        """The teacher's softened log-probabilities (n, classes), None without one."""
        if not self._teacher:
            return None
        self._teacher[0] = self._teacher[0].to(images.device)
        with torch.no_grad():
            logits: Tensor = self._teacher[0](images).float()
        return (logits / TEACHER_TEMPERATURE).log_softmax(1)

    def loss_of(self, answer: Tensor, labels: Tensor, wanted: Tensor | None) -> Tensor:
        """The loss of logits (n, classes)."""
        loss = F.cross_entropy(answer.float(), labels, label_smoothing=self.label_smoothing)
        if wanted is None:
            return loss
        softened = (answer.float() / TEACHER_TEMPERATURE).log_softmax(1)
        distance = F.kl_div(softened, wanted, reduction="batchmean", log_target=True) * TEACHER_TEMPERATURE**2
        return (1.0 - self.taught) * loss + self.taught * distance


class WeightedLosses(TaughtLosses):
    """sum_i w_i * loss(exit_i) + (1 - sum_i w_i) * loss(cloud)      (Conditionally Deep Hybrid Networks, section 3)

    With all weights 0 it is the cloud's loss alone. The codec is in the cloud's path, as it will be.
    """

    def __init__(
        self,
        network: HybridNetwork,
        exit_weights: Sequence[float],
        label_smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        taught: float = 0.0,
    ) -> None:
        super().__init__(network, label_smoothing, teacher, taught)
        self.weights = [*exit_weights, 1.0 - sum(exit_weights)]

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w), labels (n,)."""
        wanted = self.wanted(images)
        losses = torch.stack(
            [
                weight * self.loss_of(answer, labels, wanted)
                for weight, answer in zip(self.weights, self.network.every_answer(images), strict=True)
                if weight > 0.0
            ]
        )
        return losses.sum(), None


class ExitLosses(TaughtLosses):
    """The sum of the exits' losses: the second step, on a network that is frozen."""

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w), labels (n,)."""
        wanted = self.wanted(images)
        *exits, _cloud = self.network.every_answer(images, with_codec=False)
        return torch.stack([self.loss_of(answer, labels, wanted) for answer in exits]).sum(), None
