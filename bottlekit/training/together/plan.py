"""A training schedule as pieces: where the forward and the backward of each run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bottlekit.device.fields import Fields
from bottlekit.device.files import read_json, sha256_of_json
from bottlekit.device.segments.route import FORMAT, steps_from_fields
from bottlekit.errors import BundleError
from bottlekit.specs import ModelSpec, to_dict


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """A network cut at the outputs of the modules `cuts`; for each piece, whether forward and backward are there.

    Pieces that follow each other with the same places are one, so every cut is a place where something changes.
    """

    model: ModelSpec
    cuts: tuple[str, ...]
    forward_there: tuple[bool, ...]
    backward_there: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.cuts) + 1 == len(self.forward_there) == len(self.backward_there):
            raise BundleError(f"{len(self.cuts)} cuts make {len(self.cuts) + 1} pieces; the plan has others")

    @property
    def sha256(self) -> str:
        """Of the network and its cuts."""
        return network_sha256(self.model, self.cuts)

    @property
    def there(self) -> list[int]:
        """The pieces that the server runs, forward or backward."""
        return [
            number
            for number, places in enumerate(zip(self.forward_there, self.backward_there, strict=True))
            if any(places)
        ]

    def merged(self) -> TrainingPlan:
        """The same with as few pieces as possible."""
        kept = [
            at
            for at in range(len(self.cuts))
            if (self.forward_there[at], self.backward_there[at])
            != (self.forward_there[at + 1], self.backward_there[at + 1])
        ]
        pieces = [*kept, len(self.cuts)]
        return TrainingPlan(
            self.model,
            tuple(self.cuts[at] for at in kept),
            tuple(self.forward_there[at] for at in pieces),
            tuple(self.backward_there[at] for at in pieces),
        )


def network_sha256(model: ModelSpec, cuts: Sequence[str]) -> str:
    """What both machines must agree on."""
    return sha256_of_json({"model": to_dict(model), "cuts": list(cuts)})


def training_plan_from_file(path: str) -> TrainingPlan:
    """The plan in a schedule of 2n layers; BundleError, which names the field, for anything else."""
    values = Fields(read_json(path, "schedule"), path)
    if values.any("format") != FORMAT or "training" not in values.values:
        raise BundleError(
            f"{path} is no schedule of training; `bottlekit plan --switches` writes one from a profile that "
            "`bottlekit profile-layers --backbone` took"
        )
    training = values.object("training")
    model = ModelSpec(
        training.text("backbone"),
        training.integer("num_classes", 2, 100_000),
        training.integer("input_size", 8, 1024),
    )
    cuts = training.texts("cuts")
    count = len(cuts) + 1
    there = [False] * (2 * count)
    steps = steps_from_fields(values.object("schedule"), path)
    if steps[-1].span.last + 1 != 2 * count:
        raise BundleError(f"{path} schedules {steps[-1].span.last + 1} layers; {count} pieces have {2 * count}")
    for step in steps:
        for layer in range(step.span.first, step.span.last + 1):
            there[layer] = step.machine == "cloud"
    return TrainingPlan(model, tuple(cuts), tuple(there[:count]), tuple(reversed(there[count:]))).merged()
