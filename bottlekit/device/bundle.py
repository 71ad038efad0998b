"""What `export` writes and every later verb reads: one network, cut at one split point.

    bundle/
      bundle.json     what it is: model, split, bottleneck, codec, preprocessing, classes, accuracy; and the
                      SHA-256 of every other file
      head.onnx       image -> feature      on the device
      tail.onnx       feature -> logits     on the server
      full.onnx       image -> logits       both, without the codec between them
      baseline.onnx   image -> logits       the network without a bottleneck (not in every bundle)
      golden.npz      inputs and what each stage must make of them
      codec.npz       what the codec needs beyond its settings (where it needs anything)

A bundle may come from anywhere, so every field is checked before it is used, and every file against its hash.
"""

import os
import zipfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .errors import BundleError
from .fields import Fields
from .files import read_json, sha256_of_file
from .manifest import (
    check_reports,
    check_version,
    checked_classes,
    checked_codec,
    checked_feature_shape,
    checked_files,
    checked_input_shape,
    checked_preprocessing,
    checked_split,
)

FORMAT = "bottlekit-bundle"
VERSION = 1
PARTS = ("head", "tail", "full", "baseline")
_REQUIRED_FILES = ("head.onnx", "tail.onnx", "full.onnx", "golden.npz")
_GOLDEN_FILE = "golden.npz"
CODEC_FILE = "codec.npz"

_MAX_JSON_BYTES = 1 << 26
_MAX_GOLDEN_BYTES = 1 << 31
_MAX_CODEC_BYTES = 1 << 28


class Bundle:
    """A bundle that was read and checked. Make one with `Bundle.load`.

    Attributes:
        path: the folder.
        name: of the bundle, part of engine files' names.
        manifest: the content of bundle.json.
        sha256: of bundle.json's bytes; as it holds the other files' hashes, it stands for the whole bundle.
        split, preprocessing: the objects of that name in bundle.json.
        classes: the class names, in the order of the logits.
        codec: the Codec for the feature.
        input_shape: (1, 3, h, w) of the image.
        feature_shape: (c, h, w) of the feature.
        dynamic_batch: whether the graphs take any number of images at once.
        parts: those of PARTS that it holds; for a copy that was loaded with `parts`, those of them.
    """

    def __init__(
        self, path: str, manifest: Dict[str, Any], sha256: str, parts: Optional[Sequence[str]] = None
    ) -> None:
        fields = Fields(manifest, os.path.join(path, "bundle.json"))
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256
        self.name = fields.safe_name("name")
        self.dynamic_batch = fields.flag("dynamic_batch")
        self.split = checked_split(fields.object("split"))
        self.preprocessing = checked_preprocessing(fields.object("preprocessing"))
        self.input_shape = checked_input_shape(fields.object("input"), self.preprocessing["crop"])
        self.feature_shape = checked_feature_shape(fields.object("feature"))
        self.classes = checked_classes(fields)
        self._files = checked_files(fields.object("files"), _REQUIRED_FILES)
        tables = self._codec_tables()
        self.codec = checked_codec(fields.object("codec"), self.feature_shape, tables, fields.text("bottlekit"))
        check_reports(fields, len(self.classes))
        self.parts = tuple(
            part for part in PARTS if part + ".onnx" in self._files and (parts is None or part in parts)
        )

    @classmethod
    def load(cls, path: str, verify: bool = True, parts: Optional[Sequence[str]] = None) -> "Bundle":
        """Read the bundle in the folder `path`, and with `verify` compare every file with its hash.

        `parts` is for a copy that holds bundle.json, golden.npz and only these parts' graphs, as a device gets it.

        Raises:
            BundleError: no bundle there, of another version, with a field that is missing or of another type, or
                with a file that is missing or was changed after export.
        """
        path = os.fspath(path)
        where = os.path.join(path, "bundle.json")
        if not os.path.isdir(path):
            raise BundleError(_not_a_folder(path))
        if not os.path.isfile(where):
            raise BundleError("{} is no bundle: it has no bundle.json; it holds {}".format(path, _content(path)))
        if os.path.getsize(where) > _MAX_JSON_BYTES:
            raise BundleError("{} is no bundle: its bundle.json has {} bytes".format(path, os.path.getsize(where)))
        sha256 = sha256_of_file(where)
        manifest = read_json(where, "bundle")
        check_version(Fields(manifest, where), FORMAT, VERSION)
        bundle = cls(path, manifest, sha256, parts)
        bundle._check_files(verify)
        return bundle

    def onnx_path(self, part: str) -> str:
        """The ONNX file of a part; BundleError where this bundle does not hold it."""
        if part not in self.parts:
            raise BundleError(
                "the bundle {} has no {}.onnx; it has {}".format(self.path, part, ", ".join(self.parts))
            )
        return os.path.join(self.path, part + ".onnx")

    def onnx_sha256(self, part: str) -> str:
        """The SHA-256 of a part's ONNX file, as bundle.json has it; BundleError where there is no such part."""
        if part + ".onnx" not in self._files:
            self.onnx_path(part)  # It says which parts there are.
        return str(self._files[part + ".onnx"]["sha256"])

    def check_part(self, part: str) -> None:
        """Raise BundleError unless the part's file still is what bundle.json says, to the last byte."""
        self.onnx_path(part)
        self._check_file(part + ".onnx", self._files[part + ".onnx"], verify=True)

    def golden(self) -> Dict[str, np.ndarray]:
        """The golden arrays: image (k, 3, h, w), feature, codes and decoded (k, c, h', w'), logits (k, classes),
        full_logits, and baseline_logits where there is a baseline. Floats are float32, codes uint8.

        Raises:
            BundleError: a file that is no such archive, or arrays that do not fit the bundle.
        """
        where = os.path.join(self.path, _GOLDEN_FILE)
        arrays = _arrays_from_npz(where, _MAX_GOLDEN_BYTES)
        expected: Dict[str, Tuple[int, ...]] = {
            "image": self.input_shape[1:],
            "logits": (len(self.classes),),
            "full_logits": (len(self.classes),),
        }
        for name in ("feature", "codes", "decoded"):
            expected[name] = self.feature_shape
        if "baseline.onnx" in self._files:
            expected["baseline_logits"] = (len(self.classes),)
        for name in expected:
            if name not in arrays:
                raise BundleError("{} lacks the array {}; export the bundle again".format(where, name))
        samples = max(1, len(arrays["logits"]) if arrays["logits"].ndim else 1)
        for name, shape in expected.items():
            kind = np.dtype(np.uint8 if name == "codes" else np.float32)
            if arrays[name].shape != (samples,) + shape or arrays[name].dtype != kind:
                raise BundleError(
                    "{}: {} is {} {}, not {} {}; export the bundle again".format(
                        where, name, arrays[name].dtype, arrays[name].shape, kind, (samples,) + shape
                    )
                )
        return arrays

    def _check_files(self, verify: bool) -> None:
        absent = {part + ".onnx" for part in PARTS if part not in self.parts}
        for name, entry in sorted(self._files.items()):
            if name in absent:
                continue
            self._check_file(name, entry, verify)

    def _check_file(self, name: str, entry: Dict[str, Any], verify: bool) -> None:
        file = os.path.join(self.path, name)
        if not os.path.isfile(file):
            raise BundleError("{} is missing from the bundle {}; export it again".format(name, self.path))
        changed = os.path.getsize(file) != entry["bytes"]
        if changed or (verify and sha256_of_file(file) != entry["sha256"]):
            raise BundleError(
                "{} was changed after export: it no longer has the hash that bundle.json records; "
                "export the bundle again".format(file)
            )

    def _codec_tables(self) -> Optional[Dict[str, np.ndarray]]:
        """The arrays of codec.npz, whose hash is always compared: a wrong table would decode to wrong values."""
        if CODEC_FILE not in self._files:
            return None
        self._check_file(CODEC_FILE, self._files[CODEC_FILE], verify=True)
        return _arrays_from_npz(os.path.join(self.path, CODEC_FILE), _MAX_CODEC_BYTES)

    def __repr__(self) -> str:
        return "Bundle({!r}, split={!r})".format(self.path, self.split["name"])


def fleet_from_path(path: str, verify: bool = True, whole: bool = True) -> List[Bundle]:
    """The bundles of a fleet, by split index: a folder of bundles, or a single bundle's folder.

    With `whole` False they may be copies with some of the graphs, as a device gets them.

    Raises:
        BundleError: no bundle there, one that does not load, two of one name, or bundles that take other images
            or know other classes than the first.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise BundleError(_not_a_folder(path))
    if os.path.isfile(os.path.join(path, "bundle.json")):
        return [_loaded(path, verify, whole)]
    folders = [
        os.path.join(path, name)
        for name in sorted(os.listdir(path))
        if not name.startswith(".") and os.path.isfile(os.path.join(path, name, "bundle.json"))
    ]
    if not folders:
        raise BundleError(
            "{} is neither a bundle nor a folder of bundles: no bundle.json in it or one level below; "
            "it holds {}".format(path, _content(path))
        )
    bundles = [_loaded(folder, verify, whole) for folder in folders]
    bundles.sort(key=lambda bundle: (bundle.split["index"], bundle.name))
    first = bundles[0]
    names: Dict[str, str] = {}
    for bundle in bundles:
        if bundle.name in names:
            raise BundleError(
                "{} and {} are both named {}; a fleet needs one name a bundle".format(
                    names[bundle.name], bundle.path, bundle.name
                )
            )
        names[bundle.name] = bundle.path
        for what, value, other in (
            ("input shape", first.input_shape, bundle.input_shape),
            ("classes", first.classes, bundle.classes),
        ):
            if value != other:
                raise BundleError(
                    "{} and {} are no fleet: their {} differ; keep bundles of one data set in a folder".format(
                        first.path, bundle.path, what
                    )
                )
    return bundles


def _loaded(folder: str, verify: bool, whole: bool) -> Bundle:
    if whole:
        return Bundle.load(folder, verify)
    here = [part for part in PARTS if os.path.isfile(os.path.join(folder, part + ".onnx"))]
    return Bundle.load(folder, verify, here)


def _arrays_from_npz(path: str, max_bytes: int) -> Dict[str, np.ndarray]:
    """All arrays of an uncompressed or compressed .npz file, without running pickled code."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max_bytes:
            raise BundleError("{} unpacks to {} bytes; its arrays have at most {}".format(path, size, max_bytes))
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise BundleError("{} is no readable archive of arrays: {}".format(path, error))


def _not_a_folder(path: str) -> str:
    if os.path.exists(path):
        return "{} is a file; a bundle is the folder that holds bundle.json".format(path)
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return "no bundle at {}: the folder does not exist; {} holds {}".format(path, parent, _content(parent))


def _content(folder: str) -> str:
    """What a folder holds, for an error message."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return ", ".join(names[:10]) + (", ... ({} in all)".format(len(names)) if len(names) > 10 else "") or "nothing"
