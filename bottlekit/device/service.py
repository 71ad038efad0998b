"""What a server does for a request, without a socket in sight: decode and tail, or the whole network."""

import contextlib
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional

import numpy as np

from .bundle import Bundle
from .engine import engines_for_bundle
from .errors import BundleError, EngineError, UsageError
from .images import image_from_bytes, input_from_image
from .ort_runner import OnnxRuntimeRunner
from .pipeline import whole_part
from .runners import Runner, runner_from_engine
from .wire.answers import MAX_CLASSES

# A phone's photograph. Decoded, it takes 50 MB, however few bytes its file has.
MAX_IMAGE_PIXELS = 1 << 24

RunnerFor = Callable[[Bundle, str], Runner]


class Served(NamedTuple):
    """Logits float32 (classes,) and the two times of the server's work."""

    logits: np.ndarray
    decode_us: int
    tail_us: int


class _Loaded(NamedTuple):
    """An open runner, and what its callers hold while they use it: a runner takes one at a time."""

    runner: Runner
    lock: threading.Lock


class TailService:
    """The tails of a fleet, loaded, and the one function that runs one.

    payload --codec.decode--> feature (1, c, h, w) --tail--> logits (classes,)

    `runner_for(bundle, part)` gives the runner of a part, not yet open. The tails are opened by `with` and run
    once, so that what does not work fails before anyone connects, and the first client does not wait for what
    happens only once. Whole networks are opened when a client first asks for one.
    Any number of threads may call `run_tail` and `run_whole`.
    """

    def __init__(self, bundles: List[Bundle], runner_for: RunnerFor) -> None:
        if not bundles:
            raise UsageError("there is no bundle to serve")
        for bundle in bundles:
            if len(bundle.classes) > MAX_CLASSES:
                raise UsageError(
                    "{} has {} classes; {} can be served".format(bundle.name, len(bundle.classes), MAX_CLASSES)
                )
        self.bundles = list(bundles)
        self._runner_for = runner_for
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

    def run_tail(self, number: int, payload: bytes) -> Served:
        """Decode a payload of bundle `number` and run its tail. Raises BundleError, PayloadError, EngineError."""
        bundle = self._bundle(number)
        started = time.perf_counter()
        feature = bundle.codec.decode(payload)
        decoded = time.perf_counter()
        logits = self._run(bundle, "tail", {"feature": feature[np.newaxis]})
        return Served(logits, _us(started, decoded), _us(decoded, time.perf_counter()))

    def run_whole(self, number: int, data: bytes) -> Served:
        """Decode an image file and run the whole network on it. Raises BundleError, DataError, EngineError."""
        bundle = self._bundle(number)
        started = time.perf_counter()
        with self._decoding_image:
            pixels = image_from_bytes(data, "the image sent", MAX_IMAGE_PIXELS)
            image = input_from_image(pixels, bundle.preprocessing)
        decoded = time.perf_counter()
        logits = self._run(bundle, whole_part(bundle), {"image": image[np.newaxis]})
        return Served(logits, _us(started, decoded), _us(decoded, time.perf_counter()))

    @property
    def largest_payload_bytes(self) -> int:
        """The longest payload that any bundle's codec accepts."""
        return max(bundle.codec.max_payload_bytes for bundle in self.bundles)

    def _bundle(self, number: int) -> Bundle:
        if not 0 <= number < len(self.bundles):
            raise BundleError(
                "there is no bundle number {}; there are {}".format(
                    number, ", ".join("{} ({})".format(i, bundle.name) for i, bundle in enumerate(self.bundles))
                )
            )
        return self.bundles[number]

    def _try_out(self, bundle: Bundle) -> None:
        zeros = np.zeros((1,) + bundle.feature_shape, np.float32)
        logits = self._run(bundle, "tail", {"feature": zeros})
        if logits.shape != (len(bundle.classes),):
            raise EngineError(
                "the tail of {} gives {} logits, and the bundle has {} classes; export or build it again".format(
                    bundle.name, logits.size, len(bundle.classes)
                )
            )

    def _run(self, bundle: Bundle, part: str, feeds: Dict[str, np.ndarray]) -> np.ndarray:
        loaded = self._loaded(bundle, part)
        with loaded.lock:
            logits: np.ndarray = loaded.runner.run(feeds)["logits"][0]
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
    """Runs every part from the bundle's own ONNX file. Without spinning: the connections need a core too."""

    def runner_for(bundle: Bundle, part: str) -> Runner:
        return OnnxRuntimeRunner(bundle.onnx_path(part), threads=threads, spin=False)

    return runner_for


def runner_from_engines(engines_dir: str, target: str, threads: Optional[int] = None) -> RunnerFor:
    """Runs every part from the engine built for `target`. Raises EngineError where there is none."""

    def runner_for(bundle: Bundle, part: str) -> Runner:
        engines = engines_for_bundle(engines_dir, bundle, target)
        if part not in engines:
            raise EngineError(
                "no engine of {}'s {} for {} in {}; build it: bottlekit build {} --target {} -o {}".format(
                    bundle.name, part, target, engines_dir, bundle.path, target, engines_dir
                )
            )
        return runner_from_engine(engines[part], threads=threads, spin=False)

    return runner_for


def _us(start: float, end: float) -> int:
    return round((end - start) * 1e6)
