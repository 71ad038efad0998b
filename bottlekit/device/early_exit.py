"""Answer on the device where its exit is sure, and ask the server for the rest.

    image --head--> exit logits --rule, threshold--> sure: the exit's class, nothing is sent
                 \\--> feature ----------------------> unsure: encode, send, the cloud's class

A head may carry several exits, each with a threshold of its own: the first that is sure answers. The decision is
made here, by `exit_rules`, from the exits' logits alone.
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .bundle import Bundle
from .client import InferAnswer, SplitClient
from .errors import BundleError, EngineError, UsageError
from .exit_rules import check_rule, checked_threshold, doubt, first_sure, threshold_range
from .fields import Fields
from .images import input_from_image
from .runners import Runner

EXIT_OUTPUT = "exit_logits"


class Exit(NamedTuple):
    """A bundle's exits: behind which block the last one stands, the rule and threshold that they were calibrated
    with, the curve measured at export (each point {"threshold", "early_share", "accuracy", ...}), the work of its
    layers; and (block, output of the head) of every exit in the order of execution. At export `early_share` of the
    images left, and one that was sent took `payload_bytes`; 0 where the bundle does not say."""

    block: str
    rule: str
    threshold: float
    curve: List[Dict[str, Any]]
    work: List[Dict[str, Any]]
    exits: Tuple[Tuple[str, str], ...]
    early_share: float = 0.0
    payload_bytes: float = 0.0


class ExitAnswer(NamedTuple):
    """One image's answer: `early` if the exit gave it, and then `logits` (classes,) are the exit's.

    `exit` is the block behind which the exit stands that answered, None for the cloud; `threshold` the one in use.
    `doubt` is that exit's, or the last one's: the entropy in nats, or the largest probability with its sign turned.
    `times_ms` has "head" (exit included) and "decide", and where the image was sent what else it took; the bytes
    are 0 where it was not.
    """

    class_index: int
    class_name: str
    logits: np.ndarray
    early: bool
    doubt: float
    times_ms: Dict[str, float]
    payload_bytes: int
    framed_bytes: int
    response_bytes: int
    exit: Optional[str] = None
    threshold: float = 0.0

    def top(self, count: int) -> List[Any]:
        """The `count` best (class, logit), best first."""
        best = np.argsort(-self.logits, kind="stable")[:count]
        return [(int(index), float(self.logits[index])) for index in best]


class Offloaded(NamedTuple):
    """What the cloud made of a feature: all logits (classes,), the time it took and the bytes on the wire."""

    logits: np.ndarray
    times_ms: Dict[str, float]
    payload_bytes: int
    framed_bytes: int = 0
    response_bytes: int = 0


# feature float32 (1, c, h, w) -> what the cloud says
Offload = Callable[[np.ndarray], Offloaded]


def has_exit(bundle: Bundle) -> bool:
    """Whether a bundle's head answers by itself."""
    return bundle.manifest.get("exit") is not None


def exit_from_bundle(bundle: Bundle) -> Exit:
    """The exit of a bundle; BundleError for one without, or with one that makes no sense."""
    where = "{}/bundle.json".format(bundle.path)
    if not has_exit(bundle):
        raise BundleError(
            "the bundle {} has no exit, so every image is sent; export a checkpoint of `bottlekit hybrid train` "
            "for one that has".format(bundle.name)
        )
    fields = Fields(bundle.manifest["exit"], where, "exit")
    if fields.text("output") != EXIT_OUTPUT:
        raise fields.error("output", repr(EXIT_OUTPUT))
    rule = fields.text("rule")
    check_rule(rule)
    low, high = threshold_range(rule, len(bundle.classes))
    threshold = fields.number("threshold", low, high + 1e-4)
    return Exit(
        block=fields.safe_name("block"),
        rule=rule,
        threshold=threshold,
        curve=_objects(fields, "curve"),
        work=_objects(fields, "work"),
        exits=_exits(fields),
        early_share=_measured(fields, "accuracy", "early_share", 1.0),
        payload_bytes=_measured(fields, "payload_bytes", "always_offloading", 1e12),
    )


def thresholds_for(exit_: Exit, asked: Union[float, Sequence[float], None]) -> List[float]:
    """A threshold for each exit of a bundle from what was asked: None, one for all, or one for each."""
    if asked is None:
        asked = exit_.threshold
    return [asked] * len(exit_.exits) if isinstance(asked, (int, float)) else list(asked)


class EarlyExit:
    """The device's part of a hybrid network, and whom it asks.

    image (1, 3, h, w) --head_runner--> exit logits, feature --rule--> its own answer, or offload(feature)

    Thresholds may be changed between images; None is what the bundle was calibrated with, a number is for every
    exit, a sequence has one for each; and so may `offload`, whom to ask. The runner must be open. One thread at a
    time.
    """

    def __init__(
        self,
        bundle: Bundle,
        head_runner: Runner,
        offload: Offload,
        threshold: Union[float, Sequence[float], None] = None,
    ) -> None:
        self.exit = exit_from_bundle(bundle)
        self._bundle = bundle
        self.head = head_runner
        self.offload = offload
        self._thresholds: List[float] = []
        self.thresholds = thresholds_for(self.exit, threshold)
        names = [info.name for info in head_runner.outputs]
        for _, output in self.exit.exits:
            if output not in names:
                raise EngineError(
                    "{} has the outputs {}, and an exit needs {}; build it from the bundle {} again".format(
                        head_runner.name, ", ".join(names), output, bundle.name
                    )
                )

    @property
    def threshold(self) -> float:
        """The last exit's threshold; setting it sets every exit's. UsageError outside the rule's range."""
        return self._thresholds[-1]

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.thresholds = [value] * len(self.exit.exits)

    @property
    def thresholds(self) -> List[float]:
        """A threshold for each exit, in the order of execution; setting others raises UsageError as above."""
        return list(self._thresholds)

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        checked = [checked_threshold(self.exit.rule, value, len(self._bundle.classes)) for value in values]
        if len(checked) != len(self.exit.exits):
            raise UsageError(
                "{} thresholds for the exits at {}; give one for all, or one for each".format(
                    len(checked), ", ".join(block for block, _ in self.exit.exits)
                )
            )
        self._thresholds = checked

    def infer_image(self, image: np.ndarray) -> ExitAnswer:
        """Classify an image, uint8 (h, w, 3), any size."""
        return self.infer_input(input_from_image(image, self._bundle.preprocessing)[np.newaxis])

    def infer_input(self, image: np.ndarray) -> ExitAnswer:
        """Classify a preprocessed image, float32 (1, 3, h, w)."""
        started = time.perf_counter()
        outputs = self.head.run({"image": image})
        head_done = time.perf_counter()
        exits = [outputs[output][0] for _, output in self.exit.exits]
        sure = first_sure(exits, self.exit.rule, self._thresholds)
        logits = exits[-1 if sure is None else sure]
        unsure = float(doubt(logits, self.exit.rule))
        decided = time.perf_counter()
        times_ms = {"head": (head_done - started) * 1e3, "decide": (decided - head_done) * 1e3}
        said = self.offload(outputs["feature"]) if sure is None else Offloaded(logits, {}, 0)
        times_ms.update(said.times_ms)
        best = int(np.argmax(said.logits))
        return ExitAnswer(
            class_index=best,
            class_name=self._bundle.classes[best],
            logits=said.logits,
            early=sure is not None,
            doubt=unsure,
            times_ms=times_ms,
            payload_bytes=said.payload_bytes,
            framed_bytes=said.framed_bytes,
            response_bytes=said.response_bytes,
            exit=None if sure is None else self.exit.exits[sure][0],
            threshold=self._thresholds[-1 if sure is None else sure],
        )


class ComputedHead(Runner):
    """In place of a SplitClient's head: gives it the feature that was computed for the exit already."""

    def __init__(self) -> None:
        super().__init__("the feature that the exit left")
        self.feature = np.zeros(0, np.float32)

    def run(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """The feature, whatever it is fed."""
        return {"feature": self.feature}


def offload_to_server(client: SplitClient, head: ComputedHead) -> Offload:
    """Ask the server of `client`, which was made with `head` as its head_runner, inside its `with`."""

    def offload(feature: np.ndarray) -> Offloaded:
        head.feature = feature
        return offloaded_from_answer(client.infer_input(feature))

    return offload


def offloaded_from_answer(answer: InferAnswer) -> Offloaded:
    """A client's answer to a feature that a ComputedHead gave it, which took no time here."""
    times_ms = {name: value for name, value in answer.times_ms.items() if name != "head"}
    return Offloaded(answer.logits, times_ms, answer.payload_bytes, answer.framed_bytes, answer.response_bytes)


def offload_here(codec: Any, tail_runner: Runner) -> Offload:
    """Run the cloud's part in this process, the codec in between; `tail_runner` must be open."""

    def offload(feature: np.ndarray) -> Offloaded:
        started = time.perf_counter()
        payload = codec.encode(feature[0])
        encoded = time.perf_counter()
        restored = codec.decode(payload)[np.newaxis]
        decoded = time.perf_counter()
        logits = tail_runner.run({"feature": restored})["logits"][0]
        times_ms = {
            "encode": (encoded - started) * 1e3,
            "decode": (decoded - encoded) * 1e3,
            "tail": (time.perf_counter() - decoded) * 1e3,
        }
        return Offloaded(logits, times_ms, len(payload))

    return offload


def _exits(fields: Fields) -> Tuple[Tuple[str, str], ...]:
    """(block, output) of every exit; bundles with a single one need not list it."""
    if fields.values.get("exits") is None:
        return ((fields.safe_name("block"), EXIT_OUTPUT),)
    found = []
    for entry in _objects(fields, "exits"):
        one = Fields(entry, fields.where, "exit.exits")
        found.append((one.safe_name("block"), one.safe_name("output")))
    outputs = [output for _, output in found]
    if not found or outputs[-1] != EXIT_OUTPUT or len(set(outputs)) != len(outputs):
        raise fields.error("exits", "exits in their order, each with its own output, {} last".format(EXIT_OUTPUT))
    return tuple(found)


def _measured(fields: Fields, group: str, name: str, most: float) -> float:
    """A number that was measured at export, 0 where nobody did."""
    if not isinstance(fields.values.get(group), dict) or name not in fields.values[group]:
        return 0.0
    return fields.object(group).number(name, 0.0, most)


def _objects(fields: Fields, name: str) -> List[Dict[str, Any]]:
    values = fields.any(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise fields.error(name, "a list of objects")
    return list(values)
