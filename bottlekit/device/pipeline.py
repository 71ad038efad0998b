"""Both halves in one process: the reference that a client and a server must equal bit for bit."""

import contextlib
import time
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

import numpy as np

from .bundle import Bundle
from .codes import feeds_from_payload, payload_from_outputs
from .ort_runner import OnnxRuntimeRunner
from .runners import Runner


class Outcome(NamedTuple):
    """What one inference gave: logits float32 (classes,), the payload's size, and where the time went."""

    logits: np.ndarray
    payload_bytes: int
    times_ms: Dict[str, float]


class LocalSplit:
    """Head, codec and tail one after the other; the payload really is made and read.

    image (1, 3, h, w) --head--> feature (1, c, h', w') --encode--> payload --decode--> feature --tail--> logits

    A head that quantises on the GPU gives codes, which are then all that is encoded; a tail that dequantises there
    takes codes.

    The runners must be open (inside their `with`) while `infer` is called.
    """

    def __init__(self, head_runner: Runner, codec: Any, tail_runner: Runner) -> None:
        self._head = head_runner
        self._codec = codec
        self._tail = tail_runner

    def infer(self, image: np.ndarray) -> Outcome:
        """Classify one preprocessed image, float32 (1, 3, h, w)."""
        started = time.perf_counter()
        outputs = self._head.run({"image": image})
        head_done = time.perf_counter()
        payload = payload_from_outputs(self._codec, outputs)
        encode_done = time.perf_counter()
        feeds = feeds_from_payload(self._codec, payload, self._tail.inputs)
        decode_done = time.perf_counter()
        logits = self._tail.run(feeds)["logits"][0]
        tail_done = time.perf_counter()
        times_ms = {
            "head": (head_done - started) * 1e3,
            "encode": (encode_done - head_done) * 1e3,
            "decode": (decode_done - encode_done) * 1e3,
            "tail": (tail_done - decode_done) * 1e3,
        }
        return Outcome(logits, len(payload), times_ms)


class LocalWhole:
    """A whole network on this machine and nothing on a wire: the papers' mobile-only setup.

    `part` says which graph the runner holds: "baseline", the uncompressed network, or "full".
    """

    def __init__(self, runner: Runner, part: str) -> None:
        self._runner = runner
        self.part = part

    def infer(self, image: np.ndarray) -> Outcome:
        """Classify one preprocessed image, float32 (1, 3, h, w)."""
        started = time.perf_counter()
        logits = self._runner.run({"image": image})["logits"][0]
        return Outcome(logits, 0, {self.part: (time.perf_counter() - started) * 1e3})


def whole_part(bundle: Bundle) -> str:
    """The part that stands for the network in one piece: the baseline, or the full graph where there is none."""
    return "baseline" if "baseline" in bundle.parts else "full"


@contextlib.contextmanager
def local_split_from_bundle(
    bundle: Bundle, threads: Optional[int] = None, runner_for: Optional[Callable[[Bundle, str], Runner]] = None
) -> Iterator[LocalSplit]:
    """A LocalSplit, loaded for the length of the `with` block: on ONNX Runtime, or what `runner_for` gives."""
    if runner_for is None:
        # Two pools of spinning threads in one process take each other's cores: the halves run in turn, so no spin.
        head: Runner = OnnxRuntimeRunner(bundle.onnx_path("head"), threads=threads, spin=False)
        tail: Runner = OnnxRuntimeRunner(bundle.onnx_path("tail"), threads=threads, spin=False)
    else:
        head, tail = runner_for(bundle, "head"), runner_for(bundle, "tail")
    with head, tail:
        yield LocalSplit(head, bundle.codec, tail)


@contextlib.contextmanager
def local_whole_from_bundle(
    bundle: Bundle, threads: Optional[int] = None, runner_for: Optional[Callable[[Bundle, str], Runner]] = None
) -> Iterator[LocalWhole]:
    """A LocalWhole, loaded for the length of the `with` block: on ONNX Runtime, or what `runner_for` gives."""
    part = whole_part(bundle)
    if runner_for is None:
        opened: Runner = OnnxRuntimeRunner(bundle.onnx_path(part), threads=threads)
    else:
        opened = runner_for(bundle, part)
    with opened as runner:
        yield LocalWhole(runner, part)
