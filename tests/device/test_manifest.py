import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottlekit.device.bundle import Bundle
from bottlekit.device.errors import BundleError
from bottlekit.device.files import read_json


def refusal(path):
    """The one-line message with which a bundle is refused."""
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def setting(*keys_and_value):
    """An edit that sets manifest[key][key]... to a value."""
    keys, value = keys_and_value[:-1], keys_and_value[-1]

    def edit(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return edit


def without(*keys):
    """An edit that removes manifest[key][key]..."""

    def edit(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return edit


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (setting("format", "bottlekit-engine"), "its format is 'bottlekit-engine', not 'bottlekit-bundle'"),
        (without("format"), "its format is None"),
        (setting("version", 2), "has version 2 of its format, and this bottlekit reads up to 1; update bottlekit"),
        (setting("version", "1"), "version must be an integer"),
        (setting("version", True), "version must be an integer"),
        (without("version"), "lacks version"),
        (setting("name", "../net"), "name must be a name of letters"),
        (setting("name", ""), "name must be a name of letters"),
        (setting("name", ".hidden"), "name must be a name of letters"),
        (setting("name", "a/b"), "name must be a name of letters"),
        (setting("name", "a\nb"), "name must be a name of letters"),
        (setting("name", "a\n"), "name must be a name of letters"),
        (setting("name", "x" * 200), "name must be a name of letters"),
        (setting("name", None), "name must be a string"),
        (setting("dynamic_batch", "yes"), "dynamic_batch must be true or false"),
        (setting("dynamic_batch", 1), "dynamic_batch must be true or false"),
        (setting("split", "rb1"), "split must be an object"),
        (setting("split", "name", "rb/1"), "split.name must be a name of letters"),
        (setting("split", "index", -1), "split.index must be an integer from 0"),
        (setting("split", "index", 1.5), "split.index must be an integer from 0"),
        (setting("split", "channels", 0), "split.channels must be an integer from 1"),
        (without("split", "module"), "lacks split.module"),
        (setting("preprocessing", "crop", 9), "preprocessing.crop must be an integer from 1 to 8"),
        (setting("preprocessing", "resize", 1 << 20), "preprocessing.resize must be an integer"),
        (setting("preprocessing", "mean", [0.5, 0.5]), "preprocessing.mean must be a list of 3 numbers"),
        (setting("preprocessing", "mean", 0.5), "preprocessing.mean must be a list of 3 numbers"),
        (setting("preprocessing", "std", [0.2, 0.2, 0]), "preprocessing.std must be a list of 3 numbers"),
        (setting("preprocessing", "std", [0.2, 0.2, "0.2"]), "preprocessing.std must be a list of 3 numbers"),
        (setting("preprocessing", "std", [0.2, 0.2, True]), "preprocessing.std must be a list of 3 numbers"),
        (
            setting("input", "shape", [1, 3, 9, 9]),
            "input.shape must be [1, 3, 8, 8], which the preprocessing makes",
        ),
        (setting("input", "shape", [1, 1, 8, 8]), "input.shape must be [1, 3, 8, 8]"),
        (setting("input", "shape", [3, 8, 8]), "input.shape must be a list of 4 integers"),
        (setting("input", "name", "x"), "input.name must be 'image', not 'x'"),
        (setting("feature", "shape", [2, 3, 4, 4]), "feature.shape must be [1, channels, height, width]"),
        (setting("feature", "shape", [1, 3, 4, 0]), "feature.shape must be a list of 4 integers"),
        (setting("feature", "shape", [1, 3, 4, 1e9]), "feature.shape must be a list of 4 integers"),
        (setting("feature", "shape", [1, 65536, 65536, 65536]), "have more than"),
        (setting("feature", "name", "image"), "feature.name must be 'feature'"),
        (setting("output", "shape", [1, 3]), "output.shape must be [1, 2] for 2 classes"),
        (setting("output", "name", "y"), "output.name must be 'logits'"),
        (setting("classes", "cat"), "classes must be a list of strings"),
        (setting("classes", ["cat", 2]), "classes must be a list of strings"),
        (setting("classes", []), "output.shape must be [1, 0] for 0 classes"),
        (setting("codec", "name", "gif"), "codec 'gif' does not exist; there are: jpeg, jpeg-lean, learned, png"),
        (setting("codec", "name", ["raw"]), "does not exist; there are"),
        (setting("codec", "bits", 9), "1 to 8 bits"),
        (setting("codec", "quality", 0), "quality is 1 to 100"),
        (without("codec", "bits"), "lack bits"),
        (setting("model", "num_classes", 3), "model.num_classes must be an integer from 2 to 2"),
        (setting("model", "backbone", 18), "model.backbone must be a string"),
        (without("bottleneck"), "lacks bottleneck"),
        (setting("accuracy", "split", 97), "accuracy.split must be a number from 0 to 1"),
        (setting("accuracy", "split", "0.97"), "accuracy.split must be a number from 0 to 1"),
        (setting("accuracy", "baseline", -0.1), "accuracy.baseline must be a number from 0 to 1"),
        (setting("payload_bytes", "mean", 10**400), "payload_bytes.mean must be a number"),
        (setting("files", []), "files must be an object"),
        (setting("files", "head.onnx", "abc"), "files.head.onnx must be an object"),
        (setting("files", "head.onnx", "sha256", "ABC"), "files.head.onnx.sha256 must be a SHA-256"),
        (setting("files", "head.onnx", "sha256", 5), "files.head.onnx.sha256 must be a string"),
        (setting("files", "head.onnx", "bytes", -1), "files.head.onnx.bytes must be an integer"),
        (without("files", "tail.onnx"), "lacks files.tail.onnx"),
        (without("files", "golden.npz"), "lacks files.golden.npz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_that_are_missing_or_wrong_are_named(fake_bundle, edit, complaint):
    path = fake_bundle(edit=edit)
    message = refusal(path)
    assert complaint in message
    assert os.path.join(path, "bundle.json") in message


@pytest.mark.parametrize(
    "name", ["../head.onnx", "/etc/passwd", "a/b.onnx", "..", ".", ".hidden", "a\\b", "a\0b", "", "a\n", "ä.onnx"]
)
def test_names_of_files_do_not_leave_the_folder(fake_bundle, name):
    path = fake_bundle(edit=setting("files", name, {"sha256": "0" * 64, "bytes": 1}))
    assert "is no name of a file in the bundle's folder" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"version": NaN}', b"[" * 10**5])
def test_a_manifest_that_is_no_json_object_is_refused(fake_bundle, content):
    path = fake_bundle()
    with open(os.path.join(path, "bundle.json"), "wb") as file:
        file.write(content)
    assert "bundle.json is no " in refusal(path)


def test_a_manifest_too_long_to_be_one_is_refused_unread(fake_bundle):
    path = fake_bundle()
    with open(os.path.join(path, "bundle.json"), "r+b") as file:
        file.truncate(1 << 30)
    assert "is no bundle: its bundle.json has 1073741824 bytes" in refusal(path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, place=()):
    """Every place in a JSON value, as a tuple of keys and indices."""
    yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        for found in places(inner, place + (key,)):
            yield found


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_value_anywhere_gives_a_bundle_or_a_bundle_error(fake_bundle, tmp_path, data):
    path = str(tmp_path / "net")
    if not os.path.exists(path):
        fake_bundle("net")
        shutil.copy(os.path.join(path, "bundle.json"), str(tmp_path / "right.json"))
    manifest = read_json(str(tmp_path / "right.json"), "bundle")
    place = data.draw(st.sampled_from(sorted(filter(None, places(manifest)), key=repr)))
    setting(*(place + (data.draw(json_values),)))(manifest)
    with open(os.path.join(path, "bundle.json"), "w") as file:
        json.dump(manifest, file)
    try:
        bundle = Bundle.load(path)
        bundle.golden()
    except BundleError:
        return
    assert bundle.codec.shape == bundle.feature_shape
