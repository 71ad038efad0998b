"""The phases of a split inference, each alone: what it takes, what it runs, what it must give.

    head    image -> feature      an engine       full      image -> logits    an engine, no codec inside
    encode  feature -> payload    the codec       baseline  image -> logits    an engine, the uncompressed network
    decode  payload -> feature    the codec
    tail    feature -> logits     an engine

Inputs and expected outputs are the bundle's golden arrays, one image at a time.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from .bundle import PARTS, Bundle
from .engine import Engine
from .errors import CodecError, EngineError, UnknownNameError
from .runners import runner_from_engine

# In the order in which an inference runs them, the whole networks last.
PHASES = ("head", "encode", "decode", "tail", "full", "baseline")

# For an engine's part: its input, its output, and the golden arrays of both.
_GRAPHS = {
    "head": ("image", "image", "feature", "feature"),
    "tail": ("feature", "decoded", "logits", "logits"),
    "full": ("image", "image", "logits", "full_logits"),
    "baseline": ("image", "image", "logits", "baseline_logits"),
}

# How far an engine may be off, as a fraction of the largest golden value, where its sidecar does not say.
_TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2}

# By how many of the 255 gray levels two JPEG libraries may round apart, on top of what JPEG itself loses.
_JPEG_LEVELS = 2


class Phase(NamedTuple):
    """One phase, loaded.

    `run(i)` computes the i-th of `samples` golden inputs; `output` makes of its result what must be near
    `expected[i]`: by `norm`, the largest difference (max_abs) or its quadratic mean (rms), within `tolerance`.
    """

    name: str
    samples: int
    run: Callable[[int], Any]
    output: Callable[[Any], np.ndarray]
    expected: np.ndarray
    norm: str
    tolerance: float
    engine: Optional[Engine]


def phases_of_bundle(bundle: Bundle) -> List[str]:
    """The phases that a bundle has: the codec's two, and one for each of its parts."""
    return [phase for phase in PHASES if phase not in PARTS or phase in bundle.parts]


@contextlib.contextmanager
def loaded_phase(
    bundle: Bundle, name: str, engine: Optional[Engine], threads: Optional[int] = None
) -> Iterator[Phase]:
    """Load a phase for the length of the `with` block. `engine` is None for the codec's phases.

    Raises EngineError for an engine that is of another bundle or part, was never compared with the golden outputs
    or does not load; UnknownNameError for no phase of this bundle.
    """
    known = phases_of_bundle(bundle)
    if name not in known:
        raise UnknownNameError("phase", name, known)
    if name in PARTS:
        check_engine(bundle, name, engine)
        assert engine is not None
        with runner_from_engine(engine, threads=threads) as runner:
            golden = bundle.golden()
            takes, given, gives, wanted = _GRAPHS[name]
            inputs = [{takes: np.ascontiguousarray(golden[given][i : i + 1])} for i in range(len(golden[given]))]
            expected = golden[wanted]
            yield Phase(
                name=name,
                samples=len(inputs),
                run=lambda i: runner.run(inputs[i])[gives],
                output=lambda result: result[0],
                expected=expected,
                norm="max_abs",
                tolerance=_engine_tolerance(engine, expected),
                engine=engine,
            )
    else:
        golden = bundle.golden()
        yield _codec_phase(bundle, name, golden)


def check_engine(bundle: Bundle, part: str, engine: Optional[Engine]) -> None:
    """Raise EngineError unless the engine is this bundle's part, and was found equal when it was built."""
    build = "bottlekit build {} --target {}".format(bundle.path, engine.target if engine else "TARGET")
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


def check_phase(phase: Phase) -> Dict[str, Any]:
    """Run every golden input once and compare: {"compared", "samples", "max_abs", "rms", "norm", "tolerance"}.

    Correct before fast: EngineError (CodecError for the codec) when an output is too far off.
    """
    worst = {"max_abs": 0.0, "rms": 0.0}
    for i in range(phase.samples):
        output = np.asarray(phase.output(phase.run(i)))
        expected = phase.expected[i]
        if output.shape != expected.shape:
            raise _wrong(phase, "its output has the shape {}, not {}".format(output.shape, expected.shape))
        difference = np.abs(output.astype(np.float64) - expected)
        if not np.isfinite(difference).all():
            raise _wrong(phase, "its outputs hold NaN or infinity")
        worst["max_abs"] = max(worst["max_abs"], float(difference.max()))
        worst["rms"] = max(worst["rms"], _rms(difference))
    if worst[phase.norm] > phase.tolerance:
        raise _wrong(
            phase,
            "its outputs are {:.3g} off the golden ones ({}), {:.3g} is allowed".format(
                worst[phase.norm], phase.norm, phase.tolerance
            ),
        )
    result: Dict[str, Any] = {"compared": True, "samples": phase.samples}
    result.update(worst, norm=phase.norm, tolerance=phase.tolerance)
    return result


def _codec_phase(bundle: Bundle, name: str, golden: Dict[str, np.ndarray]) -> Phase:
    codec = bundle.codec
    features = [np.ascontiguousarray(feature) for feature in golden["feature"]]
    run: Callable[[int], Any]
    output: Callable[[Any], np.ndarray]
    if name == "encode":
        run, output = lambda i: codec.encode(features[i]), codec.decode
    else:
        payloads = [codec.encode(feature) for feature in features]
        run, output = lambda i: codec.decode(payloads[i]), lambda feature: feature
    expected = golden["decoded"]
    if codec.name == "jpeg":
        norm, tolerance = "rms", _jpeg_tolerance(features, expected)
    else:
        norm, tolerance = "max_abs", 0.0
    return Phase(name, len(features), run, output, expected, norm, tolerance, None)


def _jpeg_tolerance(features: List[np.ndarray], decoded: np.ndarray) -> float:
    """Two JPEG libraries may choose another step for a coefficient, which moves pixels by more than a few levels;
    but they are not further apart than the coder is from the feature.
    """
    losses = [_rms(golden - feature) for golden, feature in zip(decoded, features)]
    ranges = [float(feature.max()) - float(feature.min()) for feature in features]
    return max(losses) + max(ranges) * _JPEG_LEVELS / 255.0


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def _engine_tolerance(engine: Engine, expected: np.ndarray) -> float:
    """The absolute difference that an engine may have: its sidecar's, or one for its precision."""
    recorded = engine.sidecar["golden"].get("tolerance")
    if isinstance(recorded, (int, float)) and recorded >= 0:
        return float(recorded)
    largest = float(np.abs(expected).max())
    return _TOLERANCES.get(engine.precision, _TOLERANCES["fp16"]) * largest


def _wrong(phase: Phase, what: str) -> Exception:
    if phase.engine is None:
        return CodecError("the codec's {} is not timed: {}; export the bundle again".format(phase.name, what))
    return EngineError("{} is not timed: {}; build it again".format(phase.engine.path, what))
