"""The phases of a split inference, each alone: what it runs, and what must come out before it may be timed.

    head    image -> feature      an engine       full      image -> logits    an engine, no codec inside
    encode  feature -> payload    the codec       baseline  image -> logits    an engine, the uncompressed network
    decode  payload -> feature    the codec
    tail    feature -> logits     an engine

A head on a GPU may quantise there as well: then codes are what comes out of it, and what is encoded.

Inputs are the bundle's golden arrays, one image at a time.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from .bundle import PARTS, Bundle
from .codes import Quantised, gives_codes
from .engine import Engine
from .errors import CodecError, EngineError, UnknownNameError
from .golden import compare_with_golden, golden_feeds, tolerance_from_name
from .quantizer import quantize
from .runners import runner_from_engine

# In the order in which an inference runs them, the whole networks last.
PHASES = ("head", "encode", "decode", "tail", "full", "baseline")

# By how many of the 255 gray levels two JPEG libraries may round apart, on top of what JPEG itself loses.
_JPEG_LEVELS = 2


class Phase(NamedTuple):
    """One phase, loaded. `run(i)` computes the i-th of `samples` golden inputs.

    `compare()` runs all of them and says how near the golden outputs they come: {"compared": True, ...}; it raises
    EngineError, or CodecError for the codec's phases, when they are too far off. `device_ms()` is how long the last
    run took on the GPU itself, between two CUDA events; None where there is none.

    `quantiser` says what quantises on the GPU, "kernel" or "plugin", for a head that gives codes and for an encoder
    that takes them; `why_not_fused` why a head on a GPU does not. None otherwise. `link` is what a profile says of
    the server that the phase needs, if it needs one.
    """

    name: str
    samples: int
    run: Callable[[int], Any]
    compare: Callable[[], Dict[str, Any]]
    device_ms: Callable[[], Optional[float]] = lambda: None
    quantiser: Optional[str] = None
    why_not_fused: Optional[str] = None
    link: Optional[Dict[str, Any]] = None


def phases_of_bundle(bundle: Bundle) -> List[str]:
    """The phases that a bundle has: the codec's two, and one for each of its parts."""
    return [phase for phase in PHASES if phase not in PARTS or phase in bundle.parts]


@contextlib.contextmanager
def loaded_phase(
    bundle: Bundle,
    name: str,
    engine: Optional[Engine] = None,
    threads: Optional[int] = None,
    fused: bool = True,
    quantiser: Optional[str] = None,
) -> Iterator[Phase]:
    """Load a phase for the length of the `with` block. `engine` is not looked at for the codec's phases.

    With `fused` a head on a GPU quantises there, if it can. `quantiser`, "kernel" or "plugin", says what quantises
    or dequantises in place of the codec, whose phases then begin or end with codes; None for the codec itself.

    Raises EngineError for an engine that is missing, of another bundle or part, was never compared with the golden
    outputs or does not load; UnknownNameError for no phase of this bundle.
    """
    known = phases_of_bundle(bundle)
    if name not in known:
        raise UnknownNameError("phase", name, known)
    if name in PARTS:
        checked = checked_engine(bundle, name, engine)
        tolerance = tolerance_from_name(checked.precision)
        # As the server runs it. Spinning threads are a little faster on an idle machine; where anything else runs
        # they wait for each other, and the same tail was seen to take two to three times as long.
        codec = bundle.codec if fused else None
        with runner_from_engine(checked, threads=threads, spin=False, codec=codec) as runner:
            feeds = golden_feeds(bundle, name, runner.inputs)
            inputs = [
                {takes: np.ascontiguousarray(samples[i : i + 1]) for takes, samples in feeds.items()}
                for i in range(len(bundle.golden()["image"]))
            ]
            yield Phase(
                name,
                len(inputs),
                lambda i: runner.run(inputs[i]),
                lambda: compare_with_golden(runner, bundle, name, tolerance),
                lambda: getattr(runner, "device_ms", None),
                _quantiser_of(checked) if gives_codes(runner.outputs) else None,
                getattr(runner, "why_not_fused", None),
            )
    else:
        yield _codec_phase(bundle, name, quantiser)


def _quantiser_of(engine: Engine) -> str:
    return "plugin" if engine.has_plugin else "kernel"


def checked_engine(bundle: Bundle, part: str, engine: Optional[Engine], target: str = "TARGET") -> Engine:
    """The engine; EngineError unless it is this bundle's part, and was found equal when it was built.

    `target` is what the error says to build for where there is no engine.
    """
    build = "bottlekit build {} --target {}".format(bundle.path, engine.target if engine else target)
    if engine is None:
        raise EngineError("there is no engine for the {} of {}; build it: {}".format(part, bundle.name, build))
    if engine.part != part or engine.bundle_sha256 != bundle.sha256:
        raise EngineError(
            "{} holds the {} of {} ({}), not the {} of {} ({}); build it: {}".format(
                engine.path,
                engine.part,
                engine.bundle_name,
                engine.bundle_sha256[:8],
                part,
                bundle.name,
                bundle.sha256[:8],
                build,
            )
        )
    if not engine.golden_compared:
        raise EngineError(
            "{} is not timed: its outputs were never compared with the bundle's golden outputs ({}); "
            "build it on the machine that runs it".format(engine.path, engine.why_not_compared)
        )
    return engine


def _codec_phase(bundle: Bundle, name: str, quantiser: Optional[str]) -> Phase:
    codec, golden = bundle.codec, bundle.golden()
    features = [np.ascontiguousarray(feature) for feature in golden["feature"]]
    payloads = [codec.encode(feature) for feature in features]

    def compare() -> Dict[str, Any]:
        return compare_decoded(
            [codec.decode(payload) for payload in payloads], features, golden["decoded"], lossy=codec.name == "jpeg"
        )

    quantised = [Quantised(*quantize(feature, codec.bits, codec.value_range)) for feature in features]
    runs: Dict[Any, Callable[[int], Any]] = {
        ("encode", False): lambda i: codec.encode(features[i]),
        ("encode", True): lambda i: codec.encode_quantised(*quantised[i]),
        ("decode", False): lambda i: codec.decode(payloads[i]),
        ("decode", True): lambda i: codec.decode_quantised(payloads[i]),
    }
    return Phase(name, len(features), runs[name, quantiser is not None], compare, quantiser=quantiser)


def compare_decoded(
    decoded: List[np.ndarray], features: List[np.ndarray], golden: np.ndarray, lossy: bool
) -> Dict[str, Any]:
    """Compare what features (c, h, w) came back as with what they came back as where the bundle was exported.

    Lossless codecs give the golden values to the last bit. Two JPEG libraries may choose another step for a
    coefficient, which moves pixels by many levels; but in the quadratic mean they are not further apart than the
    coder is from the feature.
    """
    differences = [ours.astype(np.float64) - theirs for ours, theirs in zip(decoded, golden)]
    report: Dict[str, Any] = {
        "compared": True,
        "samples": len(golden),
        "max_abs": max(float(np.abs(difference).max()) for difference in differences),
        "rms": max(_rms(difference) for difference in differences),
        "tolerance": 0.0,
    }
    if lossy:
        losses = [_rms(theirs - feature) for theirs, feature in zip(golden, features)]
        ranges = [float(feature.max()) - float(feature.min()) for feature in features]
        report["tolerance"] = max(losses) + max(ranges) * _JPEG_LEVELS / 255.0
    if report["rms"] > report["tolerance"]:
        raise CodecError(
            "the codec does not give the bundle's golden features: they differ by {:.3g} in the quadratic mean, "
            "and {:.3g} is allowed; export the bundle again, or install another Pillow".format(
                report["rms"], report["tolerance"]
            )
        )
    return report


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))
