import hashlib
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottlekit.device.bundle import PARTS, Bundle, fleet_from_path
from bottlekit.device.errors import BundleError
from bottlekit.device.files import read_json, sha256_of_file


def refusal(path, load=Bundle.load):
    """The one-line message with which a bundle or fleet is refused."""
    with pytest.raises(BundleError) as caught:
        load(path)
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


# What a bundle says


def test_a_bundle_says_what_its_manifest_says(fake_bundle):
    path = fake_bundle("resnet18-rb2", index=2, crop=8, feature=(3, 4, 4), classes=("cat", "dog"))
    bundle = Bundle.load(path)
    assert bundle.path == path
    assert bundle.name == "resnet18-rb2"
    assert bundle.manifest == read_json(os.path.join(path, "bundle.json"), "bundle")
    assert (bundle.split["name"], bundle.split["index"], bundle.split["stride"]) == ("rb2", 2, 4)
    assert (bundle.codec.name, bundle.codec.shape, bundle.codec.bits) == ("raw", (3, 4, 4), 8)
    assert bundle.preprocessing["crop"] == 8
    assert bundle.classes == ["cat", "dog"]
    assert bundle.input_shape == (1, 3, 8, 8)
    assert bundle.feature_shape == (3, 4, 4)
    assert bundle.dynamic_batch is True
    assert bundle.parts == PARTS
    assert "rb2" in repr(bundle)


def test_its_hash_is_that_of_the_manifests_bytes(fake_bundle):
    path = fake_bundle()
    with open(os.path.join(path, "bundle.json"), "rb") as file:
        assert Bundle.load(path).sha256 == hashlib.sha256(file.read()).hexdigest()


def test_each_part_has_its_file(fake_bundle):
    bundle = Bundle.load(fake_bundle())
    for part in PARTS:
        with open(bundle.onnx_path(part), "rb") as file:
            content = file.read()
        assert content == b"no real graph: " + part.encode("ascii")
        assert bundle.onnx_sha256(part) == hashlib.sha256(content).hexdigest()


def test_a_bundle_without_a_baseline_says_so(fake_bundle):
    bundle = Bundle.load(fake_bundle(baseline=False))
    assert bundle.parts == ("head", "tail", "full")
    assert "baseline_logits" not in bundle.golden()
    with pytest.raises(BundleError, match=r"has no baseline.onnx; it has head, tail, full"):
        bundle.onnx_path("baseline")
    with pytest.raises(BundleError, match=r"has no ../tail.onnx"):
        bundle.onnx_path("../tail")
    with pytest.raises(BundleError, match=r"has no baseline.onnx"):
        bundle.onnx_sha256("baseline")


@pytest.mark.parametrize("codec", ["jpeg", "png", "raw"])
def test_golden_arrays_are_there_and_hold_the_codecs_round_trip(fake_bundle, codec):
    bundle = Bundle.load(fake_bundle(codec={"name": codec, "bits": 6, "quality": 30}))
    golden = bundle.golden()
    assert sorted(golden) == [
        "baseline_logits", "codes", "decoded", "feature", "full_logits", "image", "logits",
    ]  # fmt: skip
    for feature, decoded in zip(golden["feature"], golden["decoded"]):
        assert np.array_equal(bundle.codec.decode(bundle.codec.encode(feature)), decoded)


def test_paths_may_be_path_objects(fake_bundle, tmp_path):
    fake_bundle("net")
    assert Bundle.load(tmp_path / "net").path == str(tmp_path / "net")
    assert len(fleet_from_path(tmp_path / "net")) == 1


def test_files_and_fields_of_later_versions_do_no_harm(fake_bundle):
    path = fake_bundle(edit=setting("something_new", {"a": 1}))
    with open(os.path.join(path, "notes.txt"), "w") as file:
        file.write("not listed")
    assert Bundle.load(path).name == "net"


# Files that are not what they were


@pytest.mark.parametrize("name", ["head.onnx", "tail.onnx", "full.onnx", "baseline.onnx", "golden.npz"])
def test_a_missing_file_is_named(fake_bundle, name):
    path = fake_bundle()
    os.remove(os.path.join(path, name))
    for verify in (True, False):
        message = refusal(path, lambda path, verify=verify: Bundle.load(path, verify))
        assert message == "{} is missing from the bundle {}; export it again".format(name, path)


@pytest.mark.parametrize("name", ["head.onnx", "tail.onnx", "full.onnx", "baseline.onnx", "golden.npz"])
def test_a_changed_file_is_named_and_the_remedy_told(fake_bundle, name):
    path = fake_bundle()
    file_path = os.path.join(path, name)
    with open(file_path, "r+b") as file:
        file.seek(5)
        byte = file.read(1)
        file.seek(5)
        file.write(bytes([byte[0] ^ 1]))
    message = refusal(path)
    assert message.startswith(file_path + " was changed after export")
    assert message.endswith("export the bundle again")
    assert Bundle.load(path, verify=False).name == "net"


def test_a_longer_file_is_seen_even_without_hashing(fake_bundle):
    path = fake_bundle()
    with open(os.path.join(path, "tail.onnx"), "ab") as file:
        file.write(b"x")
    assert "tail.onnx was changed after export" in refusal(path, lambda path: Bundle.load(path, verify=False))


def test_a_folder_in_a_files_place_is_no_file(fake_bundle):
    path = fake_bundle()
    os.remove(os.path.join(path, "tail.onnx"))
    os.mkdir(os.path.join(path, "tail.onnx"))
    assert "tail.onnx is missing" in refusal(path)


# Places without a bundle


def test_a_folder_that_does_not_exist_is_refused_with_what_does(fake_bundle, tmp_path):
    fake_bundle("net-rb1")
    fake_bundle("net-rb2")
    for load in (Bundle.load, fleet_from_path):
        message = refusal(str(tmp_path / "net-rb3"), load)
        assert message == "no bundle at {0}/net-rb3: the folder does not exist; {0} holds net-rb1, net-rb2".format(
            tmp_path
        )
        assert "{} holds net-rb1, net-rb2".format(tmp_path) in refusal(str(tmp_path / "a" / "b" / "c"), load)


def test_a_file_is_no_bundle(fake_bundle):
    path = os.path.join(fake_bundle(), "bundle.json")
    for load in (Bundle.load, fleet_from_path):
        assert refusal(path, load) == "{} is a file; a bundle is the folder that holds bundle.json".format(path)


def test_a_folder_of_other_things_is_refused_with_what_it_holds(tmp_path):
    assert refusal(str(tmp_path)).endswith("it has no bundle.json; it holds nothing")
    for number in range(12):
        (tmp_path / "file{:02}".format(number)).write_bytes(b"")
    message = refusal(str(tmp_path), fleet_from_path)
    assert "is neither a bundle nor a folder of bundles" in message
    assert message.endswith("file08, file09, ... (12 in all)")


# Manifests that are not what they must be


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
        (setting("codec", "name", "gif"), "codec 'gif' does not exist; there are: jpeg, png, raw"),
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


# Golden arrays that are not what they must be


def replace_golden(path, **arrays):
    """Write other golden arrays, and their hash into the manifest: a hostile bundle, not a damaged one."""
    golden, where = os.path.join(path, "golden.npz"), os.path.join(path, "bundle.json")
    np.savez(golden, **arrays)
    rehash(golden, where)


def rehash(golden, where):
    manifest = read_json(where, "bundle")
    manifest["files"]["golden.npz"] = {"sha256": sha256_of_file(golden), "bytes": os.path.getsize(golden)}
    with open(where, "w") as file:
        json.dump(manifest, file)


def golden_refusal(path):
    return refusal(path, lambda path: Bundle.load(path).golden())


@pytest.mark.parametrize(
    "name", ["image", "feature", "codes", "decoded", "logits", "full_logits", "baseline_logits"]
)
def test_missing_and_misshapen_golden_arrays_are_named(fake_bundle, name):
    path = fake_bundle()
    right = Bundle.load(path).golden()
    replace_golden(path, **{other: array for other, array in right.items() if other != name})
    assert "lacks the array {}".format(name) in golden_refusal(path)
    replace_golden(path, **dict(right, **{name: right[name][..., :-1]}))
    message = golden_refusal(path)
    assert "golden.npz" in message
    assert "export the bundle again" in message
    replace_golden(path, **dict(right, **{name: right[name].astype(np.float64)}))
    assert "{} is float64".format(name) in golden_refusal(path)


def test_golden_arrays_hold_at_least_one_sample(fake_bundle):
    path = fake_bundle()
    right = Bundle.load(path).golden()
    replace_golden(path, **{name: array[:0] for name, array in right.items()})
    assert "image is float32 (0, 3, 8, 8), not float32 (1, 3, 8, 8)" in golden_refusal(path)
    replace_golden(path, **{name: array.ravel()[0] for name, array in right.items()})
    assert "image is float32 (), not float32 (1, 3, 8, 8)" in golden_refusal(path)


def test_golden_objects_are_not_unpickled(fake_bundle, tmp_path):
    class Dangerous:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    path = fake_bundle()
    right = Bundle.load(path).golden()
    replace_golden(path, **dict(right, logits=np.array([Dangerous()], dtype=object)))
    assert "is no readable archive of arrays" in golden_refusal(path)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"\x93NUMPY\x01\x00v\x00{}"])
def test_a_golden_file_that_is_no_archive_is_refused(fake_bundle, content):
    path = fake_bundle()
    golden = os.path.join(path, "golden.npz")
    with open(golden, "wb") as file:
        file.write(content)
    rehash(golden, os.path.join(path, "bundle.json"))
    assert "is no readable archive of arrays" in golden_refusal(path)


def test_a_golden_array_that_claims_more_than_it_holds_is_refused(fake_bundle):
    path = fake_bundle()
    golden = os.path.join(path, "golden.npz")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(golden, "w") as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    rehash(golden, os.path.join(path, "bundle.json"))
    assert "is no readable archive of arrays" in golden_refusal(path)


def test_a_golden_archive_that_would_fill_the_memory_is_refused_unread(fake_bundle, monkeypatch):
    path = fake_bundle()
    monkeypatch.setattr("bottlekit.device.bundle._MAX_GOLDEN_BYTES", 1000)
    assert "golden arrays have at most 1000" in golden_refusal(path)


# Fleets


def test_a_fleet_is_sorted_by_split_index(fake_bundle, tmp_path):
    for index in (10, 2, 1):
        fake_bundle("fleet/net-rb{}".format(index), index=index)
    os.mkdir(str(tmp_path / "fleet" / "notes"))
    (tmp_path / "fleet" / "README").write_bytes(b"")
    fleet = fleet_from_path(str(tmp_path / "fleet"))
    assert [bundle.split["index"] for bundle in fleet] == [1, 2, 10]
    assert [bundle.name for bundle in fleet] == ["net-rb1", "net-rb2", "net-rb10"]


def test_bundles_of_one_split_are_sorted_by_name(fake_bundle, tmp_path):
    for name in ("b", "a", "c"):
        fake_bundle("fleet/" + name)
    assert [bundle.name for bundle in fleet_from_path(str(tmp_path / "fleet"))] == ["a", "b", "c"]


def test_a_single_bundle_is_a_fleet_of_one(fake_bundle):
    path = fake_bundle()
    assert [bundle.path for bundle in fleet_from_path(path)] == [path]


def test_half_written_bundles_are_left_out(fake_bundle, tmp_path):
    fake_bundle("fleet/net")
    fake_bundle("fleet/.net.x7.part", name="half")
    assert [bundle.name for bundle in fleet_from_path(str(tmp_path / "fleet"))] == ["net"]


def test_one_broken_bundle_refuses_the_fleet_and_is_named(fake_bundle, tmp_path):
    fake_bundle("fleet/a")
    path = fake_bundle("fleet/b", index=2)
    with open(os.path.join(path, "tail.onnx"), "wb") as file:
        file.write(b"changed")
    assert os.path.join(path, "tail.onnx") in refusal(str(tmp_path / "fleet"), fleet_from_path)


def test_two_bundles_of_one_name_are_refused(fake_bundle, tmp_path):
    fake_bundle("fleet/a", name="net")
    fake_bundle("fleet/b", name="net", index=2)
    assert "are both named net" in refusal(str(tmp_path / "fleet"), fleet_from_path)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"crop": 16}, "input shape"),
        ({"classes": ("dog", "cat")}, "classes"),
        ({"classes": ("a", "b", "c")}, "classes"),
    ],
)
def test_bundles_that_do_not_belong_together_are_refused(fake_bundle, tmp_path, other, complaint):
    fake_bundle("fleet/a")
    fake_bundle("fleet/b", index=2, **other)
    message = refusal(str(tmp_path / "fleet"), fleet_from_path)
    assert "are no fleet: their {} differ".format(complaint) in message
