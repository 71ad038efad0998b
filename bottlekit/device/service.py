"""What a server does for a request, without a socket in sight: decode and tail, or the whole network."""

import contextlib
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from .bundle import Bundle
from .codes import FEATURE, Quantised, feeds_from_quantised, takes_codes
from .engine import engines_for_bundle
from .errors import BundleError, EngineError, UsageError
from .images import image_from_bytes, input_from_image
from .ort_runner import OnnxRuntimeRunner
from .pipeline import whole_part
from .runners import Runner, runner_from_engine
from .wire.answers import MAX_CLASSES

# A phone's photograph. Decoded, it takes 50 MB, however few bytes its file has.
MAX_IMAGE_PIXELS = 1 << 24

# What a request asks for: a tail for its payload, or the whole network for its image file.
TAIL = "tail"
WHOLE = "whole"

RunnerFor = Callable[[Bundle, str], Runner]


class Served(NamedTuple):
    """Logits float32 (classes,) and the two times of the server's work; the tail's is that of its whole batch."""

    logits: np.ndarray
    decode_us: int
    tail_us: int
    batch: int


# What became of each request of a batch, in the requests' order.
Outcomes = List[Union[Served, Exception]]


class _Loaded(NamedTuple):
    """An open runner, and what its callers hold while they use it: a runner takes one at a time."""

    runner: Runner
    lock: threading.Lock


class TailService:
    """The tails of a fleet, loaded, and the one function that runs one for several requests at once.

    payloads --codec.decode, each--> features (n, c, h, w) --tail--> logits (n, classes)

    A tail that dequantises by itself gets the payloads' codes instead (see codes.py).

    `runner_for(bundle, part)` gives the runner of a part, not yet open. The tails are opened by `with` and run
    once, so that what does not work fails before anyone connects, and the first client does not wait for what
    happens only once. They are tried with `max_batch` images too: a tail that takes only one gets one at a time.
    Whole networks are opened when a client first asks for one.
    Any number of threads may call `run`.
    """

    def __init__(self, bundles: List[Bundle], runner_for: RunnerFor, max_batch: int = 1) -> None:
        if not bundles:
            raise UsageError("there is no bundle to serve")
        for bundle in bundles:
            if len(bundle.classes) > MAX_CLASSES:
                raise UsageError(
                    "{} has {} classes; {} can be served".format(bundle.name, len(bundle.classes), MAX_CLASSES)
                )
        self.bundles = list(bundles)
        self._runner_for = runner_for
        self._max_batch = max_batch
        self._batches: Dict[str, int] = {}
        self._open = contextlib.ExitStack()
        # By the graph's hash: the bundles of a fleet have their baseline in common, which is loaded once.
        self._runners: Dict[str, _Loaded] = {}
        self._opening = threading.Lock()
        # A small file can hold a large image: one of them in memory at a time.
        self._decoding_image = threading.Lock()

    def __enter__(self) -> "TailService":
        with contextlib.ExitStack() as undo:
            undo.callback(self._open.close)
            for bundle in self.bundles:
                self._try_out(bundle)
            undo.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._runners.clear()
        self._open.close()

    def bundle(self, number: int) -> Bundle:
        """The bundle of a number; BundleError for one that nobody has."""
        if not 0 <= number < len(self.bundles):
            raise BundleError(
                "there is no bundle number {}; there are {}".format(
                    number, ", ".join("{} ({})".format(i, bundle.name) for i, bundle in enumerate(self.bundles))
                )
            )
        return self.bundles[number]

    def batch_limit(self, part: str, number: int) -> int:
        """How many requests `run` may get at once. Images are decoded one by one, so whole networks take one."""
        return self._batches[self.bundle(number).name] if part == TAIL else 1

    def run(self, part: str, number: int, datas: List[bytes]) -> Outcomes:
        """Run the tail of bundle `number` on payloads, or with part WHOLE its whole network on image files.

        Data that cannot be decoded is its own request's error (PayloadError, DataError) and no other's; a graph
        that fails (EngineError) fails for all of them. Raises BundleError for an unknown number.
        """
        bundle = self.bundle(number)
        decode, graph, feeds_of = self._steps(bundle, part)
        outcomes: Outcomes = []
        decoded, places, times = [], [], []
        for place, data in enumerate(datas):
            started = time.perf_counter()
            try:
                decoded.append(decode(data))
            except Exception as error:
                outcomes.append(error)
                continue
            times.append(_us(started, time.perf_counter()))
            places.append(place)
            outcomes.append(EngineError("not run yet"))
        if not decoded:
            return outcomes
        started = time.perf_counter()
        try:
            logits = self._run(bundle, graph, feeds_of(decoded))
        except Exception as error:
            for place in places:
                outcomes[place] = error
            return outcomes
        tail_us = _us(started, time.perf_counter())
        for row, place in enumerate(places):
            outcomes[place] = Served(logits[row], times[row], tail_us, len(places))
        return outcomes

    @property
    def largest_payload_bytes(self) -> int:
        """The longest payload that any bundle's codec accepts."""
        return max(bundle.codec.max_payload_bytes for bundle in self.bundles)

    def _steps(
        self, bundle: Bundle, part: str
    ) -> Tuple[Callable[[bytes], Any], str, Callable[[List[Any]], Dict[str, np.ndarray]]]:
        """How data of a request is decoded, which graph takes it, and how it is fed with several of them."""
        if part == WHOLE:
            return (
                lambda data: self._image(bundle, data),
                whole_part(bundle),
                lambda all_: {"image": _batch(all_)},
            )
        if takes_codes(self._loaded(bundle, "tail").runner.inputs):
            return lambda data: Quantised(*bundle.codec.decode_quantised(data)), "tail", feeds_from_quantised
        return bundle.codec.decode, "tail", lambda all_: {FEATURE: _batch(all_)}

    def _image(self, bundle: Bundle, data: bytes) -> np.ndarray:
        with self._decoding_image:
            pixels = image_from_bytes(data, "the image sent", MAX_IMAGE_PIXELS)
            return input_from_image(pixels, bundle.preprocessing)

    def _try_out(self, bundle: Bundle) -> None:
        logits = self._try(bundle, 1)
        if logits.shape != (1, len(bundle.classes)):
            raise EngineError(
                "the tail of {} gives {} logits, and the bundle has {} classes; export or build it again".format(
                    bundle.name, logits.size, len(bundle.classes)
                )
            )
        batch = 1
        if self._max_batch > 1 and bundle.dynamic_batch:
            with contextlib.suppress(EngineError):  # an engine may be built for less than its bundle allows
                if self._try(bundle, self._max_batch).shape == (self._max_batch, len(bundle.classes)):
                    batch = self._max_batch
        self._batches[bundle.name] = batch

    def _try(self, bundle: Bundle, images: int) -> np.ndarray:
        zeros = np.zeros(bundle.feature_shape, np.float32)
        if takes_codes(self._loaded(bundle, "tail").runner.inputs):
            codes = Quantised(zeros.astype(np.uint8), 0.0, 0.0)
            return self._run(bundle, "tail", feeds_from_quantised([codes] * images))
        return self._run(bundle, "tail", {FEATURE: np.stack([zeros] * images)})

    def _run(self, bundle: Bundle, part: str, feeds: Dict[str, np.ndarray]) -> np.ndarray:
        loaded = self._loaded(bundle, part)
        with loaded.lock:
            logits: np.ndarray = loaded.runner.run(feeds)["logits"]
        return logits

    def _loaded(self, bundle: Bundle, part: str) -> _Loaded:
        key = bundle.manifest["files"][part + ".onnx"]["sha256"]
        if key not in self._runners:
            with self._opening:
                if key not in self._runners:
                    runner = self._open.enter_context(self._runner_for(bundle, part))
                    self._runners[key] = _Loaded(runner, threading.Lock())
        return self._runners[key]


def runner_from_onnx(threads: Optional[int] = None) -> RunnerFor:
    """Runs every part from the bundle's own ONNX file. Without spinning: the connections need a core too.

    A file that is no longer the bundle's is a BundleError: whole networks are opened late, and by then somebody may
    have copied another fleet over this one.
    """

    def runner_for(bundle: Bundle, part: str) -> Runner:
        bundle.check_part(part)
        return OnnxRuntimeRunner(bundle.onnx_path(part), threads=threads, spin=False)

    return runner_for


def runner_from_engines(
    engines_dir: str, target: str, threads: Optional[int] = None, fused: bool = False
) -> RunnerFor:
    """Runs every part from the engine built for `target`. Raises EngineError where there is none.

    With `fused` a head on a GPU quantises there, where it can.
    """

    def runner_for(bundle: Bundle, part: str) -> Runner:
        engines = engines_for_bundle(engines_dir, bundle, target)
        if part not in engines:
            raise EngineError(
                "no engine of {}'s {} for {} in {}; build it: bottlekit build {} --target {} -o {}".format(
                    bundle.name, part, target, engines_dir, bundle.path, target, engines_dir
                )
            )
        codec = bundle.codec if fused else None
        return runner_from_engine(engines[part], threads=threads, spin=False, codec=codec)

    return runner_for


def _batch(arrays: List[np.ndarray]) -> np.ndarray:
    """Arrays (c, h, w) as one (n, c, h, w); a single one is not copied."""
    return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)


def _us(start: float, end: float) -> int:
    return round((end - start) * 1e6)
