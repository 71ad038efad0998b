"""Answer on the device where its exit is sure, and ask the server for the rest.

    image --head--> exit logits --rule, threshold--> sure: the exit's class, nothing is sent
                 \\--> feature ----------------------> unsure: encode, send, the cloud's class

The decision is made here, by `exit_rules`, from the exit's logits alone.
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from .bundle import Bundle
from .client import SplitClient
from .errors import BundleError, EngineError
from .exit_rules import check_rule, checked_threshold, doubt, leaves_early, threshold_range
from .fields import Fields
from .images import input_from_image
from .runners import Runner

EXIT_OUTPUT = "exit_logits"


class Exit(NamedTuple):
    """A bundle's exit: behind which block, the rule and threshold it was calibrated with, the curve measured at
    export (each point {"threshold", "early_share", "accuracy", ...}), the work of its layers."""

    block: str
    rule: str
    threshold: float
    curve: List[Dict[str, Any]]
    work: List[Dict[str, Any]]


class ExitAnswer(NamedTuple):
    """One image's answer: `early` if the exit gave it, and then `logits` (classes,) are the exit's.

    `doubt` is the entropy in nats, or the largest probability with its sign turned. `times_ms` has "head" (exit
    included) and "decide", and where the image was sent what else it took; the bytes are 0 where it was not.
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
    )


class EarlyExit:
    """The device's part of a hybrid network, and whom it asks.

    image (1, 3, h, w) --head_runner--> exit logits, feature --rule--> its own answer, or offload(feature)

    `threshold` may be changed between images; None is what the bundle was calibrated with. The runner must be
    open. One thread at a time.
    """

    def __init__(
        self, bundle: Bundle, head_runner: Runner, offload: Offload, threshold: Optional[float] = None
    ) -> None:
        self.exit = exit_from_bundle(bundle)
        self._bundle = bundle
        self._head = head_runner
        self._offload = offload
        self._threshold = self.exit.threshold
        self.threshold = self.exit.threshold if threshold is None else threshold
        names = [info.name for info in head_runner.outputs]
        if EXIT_OUTPUT not in names:
            raise EngineError(
                "{} has the outputs {}, and an exit needs {}; build it from the bundle {} again".format(
                    head_runner.name, ", ".join(names), EXIT_OUTPUT, bundle.name
                )
            )

    @property
    def threshold(self) -> float:
        """Who leaves early; setting one outside the rule's range raises UsageError."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = checked_threshold(self.exit.rule, value, len(self._bundle.classes))

    def infer_image(self, image: np.ndarray) -> ExitAnswer:
        """Classify an image, uint8 (h, w, 3), any size."""
        return self.infer_input(input_from_image(image, self._bundle.preprocessing)[np.newaxis])

    def infer_input(self, image: np.ndarray) -> ExitAnswer:
        """Classify a preprocessed image, float32 (1, 3, h, w)."""
        started = time.perf_counter()
        outputs = self._head.run({"image": image})
        head_done = time.perf_counter()
        logits = outputs[EXIT_OUTPUT][0]
        early = bool(leaves_early(logits, self.exit.rule, self._threshold))
        unsure = float(doubt(logits, self.exit.rule))
        decided = time.perf_counter()
        times_ms = {"head": (head_done - started) * 1e3, "decide": (decided - head_done) * 1e3}
        said = Offloaded(logits, {}, 0) if early else self._offload(outputs["feature"])
        times_ms.update(said.times_ms)
        best = int(np.argmax(said.logits))
        return ExitAnswer(
            class_index=best,
            class_name=self._bundle.classes[best],
            logits=said.logits,
            early=early,
            doubt=unsure,
            times_ms=times_ms,
            payload_bytes=said.payload_bytes,
            framed_bytes=said.framed_bytes,
            response_bytes=said.response_bytes,
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
        answer = client.infer_input(feature)
        times_ms = {name: value for name, value in answer.times_ms.items() if name != "head"}
        return Offloaded(answer.logits, times_ms, answer.payload_bytes, answer.framed_bytes, answer.response_bytes)

    return offload


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


def _objects(fields: Fields, name: str) -> List[Dict[str, Any]]:
    values = fields.any(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise fields.error(name, "a list of objects")
    return list(values)
