"""How a bottleneck is trained: perhaps a warm-up of the unit alone, then the whole network.

    [warm-up]      the unit imitates what it replaced, the backbone stays as it is      Imitation
    fine-tuning    everything, with the labels                                          Classification

The warm-up is the SC2 family's (Matsubara et al., "Supervised compression for resource-constrained edge computing
systems", WACV 2022): the backbone frozen first, then trained. With a weight for the rate, both stages pay for every
byte that the codec `learned` would send. With several rates, both meet the codec at each of them (rates.py).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from bottlekit.errors import UsageError
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import CodecSpec
from bottlekit.training.data import DataSet
from bottlekit.training.loop import History, fit
from bottlekit.training.objective import Classification, Imitation
from bottlekit.training.rate import RateEstimate
from bottlekit.training.rates import SeveralCodecs, codecs_of_rates, setting_of
from bottlekit.training.recipe import Recipe

# A warm-up repeats no order and no augmentation of the fine-tuning.
_OTHER_SEED = 1 << 20


@dataclasses.dataclass(frozen=True)
class BottleneckTraining:
    """What there is to choose about it.

    `naive` leaves the codec out of training (BottleNet, section 3.3). `rate_weight` is what one byte of the
    estimated payload adds to the loss; 0 estimates nothing. `distill_epochs` is the length of the warm-up. `rates`
    are the settings of the codec that one network shall serve (see `codecs_of_rates`); () is its own alone.
    """

    naive: bool = False
    rate_weight: float = 0.0
    distill_epochs: int = 0
    rates: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rate_weight < math.inf:
            raise UsageError(f"--rate-weight must be a number of at least 0, not {self.rate_weight}")
        if self.distill_epochs < 0:
            raise UsageError(f"--distill-epochs must be at least 0, not {self.distill_epochs}")
        if self.naive and (self.rate_weight or self.distill_epochs or self.rates):
            raise UsageError(
                "--naive leaves the codec out of training; --rate-weight, --distill-epochs and --rates need it"
            )

    def check(self, codec: CodecSpec, batch_size: int) -> None:
        """Raise UsageError for a codec whose bytes nothing estimates, or rates that it or a batch cannot have."""
        if self.rates and batch_size < len(codecs_of_rates(codec, self.rates)):
            raise UsageError(
                f"a batch of {batch_size} images has none for each of {len(self.rates)} --rates; raise --batch-size"
            )
        if self.rates and getattr(codec, setting_of(codec)) not in self.rates:
            raise UsageError(
                f"--{setting_of(codec)} {getattr(codec, setting_of(codec))} is not among --rates "
                f"{','.join(map(str, self.rates))}; name one of them, or leave it out for the finest"
            )
        if self.rate_weight and codec.name != "learned":
            raise UsageError(
                f"--rate-weight estimates the bytes of --codec learned, not of {codec.name}; train with it, and "
                "export with any codec"
            )


def fit_bottleneck(
    network: SplitNetwork,
    data: DataSet,
    recipe: Recipe,
    how: BottleneckTraining,
    seed: int,
    state_path: Path,
    resume: bool,
    run: dict[str, Any],
    quiet: bool,
) -> History:
    """Train `network` in place, as `fit`; the history's records of a warm-up have "stage": "warm-up".

    The state of a warm-up is beside `state_path` (`warm_up_path`), and like it left for the caller to remove.
    Raises what `fit` raises; UsageError where there is nothing to resume.
    """
    title = f"{network.bottleneck.kind} at {network.bottleneck.split}"
    rate = RateEstimate(network) if how.rate_weight else None
    codec = SeveralCodecs(network, codecs_of_rates(network.codec, how.rates)) if how.rates else None
    history: History = []
    # An interrupted run has the state of both stages, of the first alone, or none: the last is `fit`'s to refuse.
    in_first_stage = how.distill_epochs > 0 and not (resume and state_path.exists())
    if how.distill_epochs:
        first_path = warm_up_path(state_path)
        first_recipe = dataclasses.replace(
            recipe,
            epochs=how.distill_epochs,
            warmup_epochs=min(recipe.warmup_epochs, how.distill_epochs / 4),
            evaluate_every=0,
        )
        first = Imitation(network, rate, how.rate_weight, codec)
        history = _warm_up(first, data, first_recipe, seed, first_path, resume, run, quiet)
        history = [record | {"stage": "warm-up"} for record in history]
    second = Classification(network, not how.naive, recipe.label_smoothing, rate, how.rate_weight, codec)
    return history + fit(
        network,
        data,
        recipe,
        seed,
        with_codec=not how.naive,
        title=title,
        state_path=state_path,
        resume=resume and not in_first_stage,
        run=run,
        quiet=quiet,
        objective=second,
    )


def warm_up_path(state_path: Path) -> Path:
    """Where the state of a warm-up is kept: x.safetensors.warm-up.resume beside x.safetensors.resume."""
    return state_path.with_suffix(".warm-up.resume")


def _warm_up(
    objective: Imitation,
    data: DataSet,
    recipe: Recipe,
    seed: int,
    state_path: Path,
    resume: bool,
    run: dict[str, Any],
    quiet: bool,
) -> History:
    """Train the unit alone; with `resume`, a warm-up that was finished is taken from its state at once."""
    network = objective.network
    backbone = list(network.backbone.parameters())
    for parameter in backbone:
        parameter.requires_grad_(False)
    try:
        return fit(
            network,
            data,
            recipe,
            seed + _OTHER_SEED,
            title=f"{network.bottleneck.kind} at {network.bottleneck.split}, warm-up",
            state_path=state_path,
            resume=resume,
            run=run,
            quiet=quiet,
            objective=objective,
        )
    finally:
        for parameter in backbone:
            parameter.requires_grad_(True)
