"""Which codec a network is exported with, and what that codec learns from training images.

    training images --head--> features --calibrate--> range, tables      as the codec needs them
    held-out images --head--> features --encode--> bytes                 smallest first
                                         +--decode--> tail --> accuracy   until one is good enough

A decoder that gives back every code has the accuracy of its quantiser, so codecs that differ only in how they pack
the codes share one measurement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bottlekit.device.codecs import CODEC_NAMES, Codec, JpegCodec, Tables, codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.errors import CodecError, UnknownNameError, UsageError
from bottlekit.export.sessions import Array, Function
from bottlekit.specs import CodecSpec, ValueRange, to_dict

AUTO = "auto"
MAX_ACCURACY_DROP = 0.01
# Qualities to try; between them the bytes change little.
_QUALITIES = (5, 10, 20, 40, 60, 80, 95)
_TAIL_BATCH = 16

Shape = tuple[int, int, int]
Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class CodecRequest:
    """The codec that was asked for, by what differs from the one that the network was trained with (None: nothing).

    `name` may be `auto`: the codec with the fewest bytes whose accuracy, on held-out images, is at most
    `max_accuracy_drop` (a fraction) below the accuracy without any codec. What else is given is then held fixed.
    UnknownNameError or UsageError for what does not exist or fit.
    """

    name: str | None = None
    bits: int | None = None
    quality: int | None = None
    range: ValueRange | None = None
    max_accuracy_drop: float = MAX_ACCURACY_DROP

    def __post_init__(self) -> None:
        if not 0 <= self.max_accuracy_drop < 1:
            raise UsageError(f"--max-accuracy-drop is a fraction from 0 to below 1, not {self.max_accuracy_drop:g}")
        if self.name not in (None, AUTO, *CODEC_NAMES):
            raise UnknownNameError("codec", str(self.name), [*CODEC_NAMES, AUTO])
        self.spec(CodecSpec("raw"))  # It refuses what does not fit, before anything is computed.

    def spec(self, trained_with: CodecSpec) -> CodecSpec:
        """The codec's settings. UsageError for settings that do not fit; for `auto` there are none yet."""
        return CodecSpec(
            trained_with.name if self.name is None else self.name,
            trained_with.bits if self.bits is None else self.bits,
            trained_with.quality if self.quality is None else self.quality,
            trained_with.range if self.range is None else self.range,
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A codec for features of one network: settings, what it learned, and how it was chosen (None: it was not)."""

    spec: CodecSpec
    tables: Tables
    codec: Codec
    choice: dict[str, Any] | None = None


def fitted(spec: CodecSpec, training: Array, known: Tables | None = None) -> Fitted:
    """The codec of `spec`, calibrated on features (n, c, h, w) of training images.

    `known` are tables that are settled: the static range that a network was trained with. Raises UnknownNameError
    and CodecError as `codec_from_spec`.
    """
    shape = training.shape[1:]
    tables = calibrated_tables(to_dict(spec), shape, training, known)
    return Fitted(spec, tables, codec_from_spec(to_dict(spec), shape, tables))


def learns(spec: CodecSpec, shape: Shape, known: Tables) -> bool:
    """Whether a codec needs features of training images, and not its settings and `known` tables alone."""
    if spec.range == "static" and "range" not in known:
        return True
    return codec_from_spec(to_dict(spec), shape, known).learns


def smallest(
    trained_with: CodecSpec,
    request: CodecRequest,
    training: Array,
    held_out: Array,
    labels: Sequence[int],
    tail: Function,
    progress: Progress,
) -> Fitted:
    """The codec with the fewest bytes on average that `request` allows.

    `training` and `held_out` are features (n, c, h, w), `labels` the held-out classes, `tail` decoded features to
    logits. Raises UsageError if no codec stays within the allowed loss of accuracy.
    """
    judge = _Judge(held_out, labels, tail)
    bound = judge.without_codec - request.max_accuracy_drop
    sized: list[tuple[float, Fitted]] = []
    for one in _candidates(trained_with, request, training):
        progress(f"codecs: {one.spec.name}, {one.spec.bits} bits, range {one.spec.range}")
        sized.append((float(np.mean([len(one.codec.encode(feature)) for feature in held_out])), one))
    sized.sort(key=lambda pair: pair[0])
    tried = []
    for mean_bytes, one in sized:
        progress(f"codecs: accuracy with {one.spec.name}, {one.spec.bits} bits, {mean_bytes:.0f} bytes")
        accuracy = judge.accuracy(one.codec)
        tried.append({**to_dict(one.spec), "mean_bytes": mean_bytes, "accuracy": accuracy})
        if accuracy >= bound:
            choice = {
                "max_accuracy_drop": request.max_accuracy_drop,
                "images": len(labels),
                "accuracy_without_codec": judge.without_codec,
                "measured": len(sized),
                "tried": tried,
            }
            return dataclasses.replace(one, choice=choice)
    best = max((one["accuracy"] for one in tried), default=0.0)
    raise UsageError(
        f"no codec stays within --max-accuracy-drop {request.max_accuracy_drop:g} of the accuracy without a codec, "
        f"{judge.without_codec:.4f}: the best of {len(tried)} reaches {best:.4f}; allow more, or train with a codec"
    )


def _candidates(trained_with: CodecSpec, request: CodecRequest, training: Array) -> Iterator[Fitted]:
    """Every codec at every setting that is worth trying and that fits the feature."""
    shape = training.shape[1:]
    ranges: Sequence[ValueRange] = (request.range,) if request.range else ("image", "static")
    qualities = (request.quality,) if request.quality else sorted({*_QUALITIES, trained_with.quality})
    settled: dict[tuple[int, str], Tables] = {}
    for name in CODEC_NAMES:
        try:
            lossless = codec_from_spec({"name": name, "bits": 8, "quality": 20}, shape).lossless
        except CodecError:
            continue  # The feature is too large for it, or this machine lacks its library.
        # A coder that loses something itself makes good use of fine codes; the others cost what their codes cost.
        bits = (request.bits,) if request.bits else tuple(range(1, 9)) if lossless else (8,)
        for value_range in ranges:
            for count in bits:
                for quality in (trained_with.quality,) if lossless else qualities:
                    known = settled.get((count, value_range), {})
                    one = fitted(CodecSpec(name, count, quality, value_range), training, known)
                    settled[count, value_range] = {k: v for k, v in one.tables.items() if k == "range"}
                    yield one


class _Judge:
    """The accuracy of a network behind a codec: measured once for codecs that decode alike."""

    def __init__(self, features: Array, labels: Sequence[int], tail: Function) -> None:
        self._features = features
        self._labels = np.asarray(labels)
        self._tail = tail
        self._known: dict[tuple[object, ...], float] = {}
        self.without_codec = self._accuracy(features)

    def accuracy(self, codec: Codec) -> float:
        """The fraction of held-out images classified rightly behind the codec."""
        coder = "" if codec.lossless else "jpeg" if isinstance(codec, JpegCodec) else codec.name
        key = (coder, codec.bits, codec.value_range, coder and codec.quality)
        if key not in self._known:
            decoded = [codec.decode(codec.encode(feature)) for feature in self._features]
            self._known[key] = self._accuracy(np.stack(decoded))
        return self._known[key]

    def _accuracy(self, decoded: Array) -> float:
        starts = range(0, len(decoded), _TAIL_BATCH)
        classes = [self._tail(decoded[start : start + _TAIL_BATCH]).argmax(axis=1) for start in starts]
        return float(np.mean(np.concatenate(classes) == self._labels))
