"""What must be true of each part of a bundle.json before anything is made of it."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from .codecs import Codec, Tables, codec_from_spec
from .errors import BottlekitError, BundleError
from .fields import Fields, is_safe_name

_MAX_SIDE = 1 << 14
_MAX_CHANNELS = 1 << 16
_MAX_CLASSES = 1 << 20


def check_version(fields: Fields, format_name: str, version: int) -> None:
    """Refuse a file of another format, or one that a newer bottlekit wrote."""
    found = fields.values.get("format")
    if found != format_name:
        raise BundleError(
            "{}: its format is {!r}, not {!r}; it is something else".format(fields.where, found, format_name)
        )
    written = fields.integer("version", 1, 1 << 31)
    if written > version:
        raise BundleError(
            "{} has version {} of its format, and this bottlekit reads up to {}; "
            "update bottlekit on this machine".format(fields.where, written, version)
        )


def checked_split(fields: Fields) -> Dict[str, Any]:
    """The split point: name, index, module, channels, height, width, stride."""
    fields.safe_name("name")
    fields.integer("index", 0, 1 << 16)
    fields.text("module")
    fields.integer("channels", 1, _MAX_CHANNELS)
    for name in ("height", "width", "stride"):
        fields.integer(name, 1, _MAX_SIDE)
    return fields.values


def checked_preprocessing(fields: Fields) -> Dict[str, Any]:
    """The preprocessing: resize, crop (pixels), mean, std (3 values each)."""
    resize = fields.integer("resize", 1, _MAX_SIDE)
    fields.integer("crop", 1, resize)
    fields.numbers("mean", 3, -1e6, 1e6)
    fields.numbers("std", 3, 1e-6, 1e6)
    return fields.values


def checked_input_shape(fields: Fields, crop: int) -> Tuple[int, int, int, int]:
    """The image's shape (1, 3, crop, crop)."""
    _check_tensor_name(fields, "image")
    n, c, h, w = fields.integers("shape", 4, 1, _MAX_SIDE)
    if (n, c, h, w) != (1, 3, crop, crop):
        raise fields.error("shape", "[1, 3, {0}, {0}], which the preprocessing makes".format(crop))
    return n, c, h, w


def checked_feature_shape(fields: Fields) -> Tuple[int, int, int]:
    """The feature's shape (c, h, w), from [1, c, h, w]."""
    _check_tensor_name(fields, "feature")
    n, c, h, w = fields.integers("shape", 4, 1, _MAX_CHANNELS)
    if n != 1:
        raise fields.error("shape", "[1, channels, height, width]")
    return c, h, w


def checked_classes(fields: Fields) -> List[str]:
    """The class names, as many as there are logits."""
    classes = fields.texts("classes")
    output = fields.object("output")
    _check_tensor_name(output, "logits")
    if output.integers("shape", 2, 1, _MAX_CLASSES) != [1, len(classes)]:
        raise output.error("shape", "[1, {}] for {} classes".format(len(classes), len(classes)))
    return classes


def _check_tensor_name(fields: Fields, name: str) -> None:
    if fields.text("name") != name:
        raise fields.error("name", repr(name))


def checked_codec(fields: Fields, shape: Tuple[int, int, int], tables: Optional[Tables], written_by: str) -> Codec:
    """The codec for features of `shape` (c, h, w), with the tables of codec.npz (None: the bundle has none).

    `written_by` is the version of bottlekit that wrote the bundle: who knows the codec, if nobody here does.
    """
    try:
        codec = codec_from_spec(fields.values, shape, tables)
    except BottlekitError as error:
        raise BundleError("{} (written by bottlekit {}): {}".format(fields.where, written_by, error))
    lacking = sorted(set(codec.tables_needed) - set(tables or {}))
    if lacking:
        raise BundleError(
            "{}: the codec {} needs {} in codec.npz; export the bundle again".format(
                fields.where, codec.name, ", ".join(lacking)
            )
        )
    return codec


def check_reports(fields: Fields, num_classes: int) -> None:
    """The objects that are only reported, or read by the workshop."""
    model = fields.object("model")
    model.safe_name("backbone")
    model.integer("num_classes", num_classes, num_classes)
    model.integer("input_size", 1, _MAX_SIDE)
    fields.object("bottleneck").safe_name("kind")
    if fields.any("accuracy") is not None:  # null where nobody trained the bottleneck
        accuracy = fields.object("accuracy")
        accuracy.number("split", 0, 1)
        accuracy.number_or_none("baseline", 0, 1)
    fields.object("payload_bytes").number("mean", 0, 1e12)


def checked_files(fields: Fields, required: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """The entry of each file, {"sha256", "bytes", ...}, by a name that stays in the folder."""
    for name in sorted(fields.values):
        if not is_safe_name(name):
            raise BundleError("{}: {!r} is no name of a file in the bundle's folder".format(fields.where, name))
        entry = fields.object(name)
        entry.sha256("sha256")
        entry.integer("bytes", 0, 1 << 40)
    for name in required:
        fields.object(name)
    return fields.values
