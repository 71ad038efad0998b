import hashlib
import json
import os
import zipfile

import numpy as np
import pytest

from bottlekit.device.bundle import PARTS, Bundle, fleet_from_path
from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.errors import BundleError
from bottlekit.device.files import read_json, sha256_of_file


def refusal(path, load=Bundle.load):
    """The one-line message with which a bundle or fleet is refused."""
    with pytest.raises(BundleError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    path = fake_bundle(edit=lambda manifest: manifest.update(something_new={"a": 1}))
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
    assert "its arrays have at most 1000" in golden_refusal(path)


def test_a_copy_with_some_parts_loads_and_knows_the_hashes_of_all(fake_bundle):
    path = fake_bundle()
    whole = Bundle.load(path)
    for part in ("tail", "full", "baseline"):
        os.remove(os.path.join(path, part + ".onnx"))
    copy = Bundle.load(path, parts=("head",))
    assert copy.parts == ("head",)
    assert copy.sha256 == whole.sha256
    assert copy.onnx_sha256("tail") == whole.onnx_sha256("tail")
    assert set(copy.golden()) == set(whole.golden())
    with pytest.raises(BundleError, match=r"has no tail\.onnx; it has head"):
        copy.onnx_path("tail")
    with pytest.raises(BundleError, match=r"baseline\.onnx is missing"):
        Bundle.load(path)


def test_a_copy_with_some_parts_is_verified_all_the_same(fake_bundle):
    path = fake_bundle()
    os.remove(os.path.join(path, "tail.onnx"))
    for name in ("head.onnx", "golden.npz"):
        file = os.path.join(path, name)
        with open(file, "rb") as before:
            content = before.read()
        with open(file, "wb") as changed:
            changed.write(content[:-1] + b"?")
        with pytest.raises(BundleError, match=name + " was changed after export"):
            Bundle.load(path, parts=("head", "full", "baseline"))
        with open(file, "wb") as restored:
            restored.write(content)
    os.remove(os.path.join(path, "head.onnx"))
    with pytest.raises(BundleError, match=r"head\.onnx is missing"):
        Bundle.load(path, parts=("head",))
    assert Bundle.load(path, parts=()).parts == ()


# What the codec needs beyond its settings

STATIC = {"name": "learned", "bits": 2, "quality": 20, "range": "static", "version": 1}


def learned_tables():
    random = np.random.RandomState(0)
    return calibrated_tables(STATIC, (3, 4, 4), random.uniform(-1, 1, (9, 3, 4, 4)).astype(np.float32))


def test_the_codecs_tables_come_out_of_the_bundle(fake_bundle):
    tables = learned_tables()
    bundle = Bundle.load(fake_bundle(codec=STATIC, tables=tables))
    assert bundle.codec.value_range == tuple(float(end) for end in tables["range"])
    feature = bundle.golden()["feature"][0]
    payload = codec_from_spec(STATIC, (3, 4, 4), tables).encode(feature)
    assert bundle.codec.encode(feature) == payload
    assert np.array_equal(bundle.codec.decode(payload), bundle.golden()["decoded"][0])


def test_changed_tables_are_refused_even_without_hashing(fake_bundle):
    path = fake_bundle(codec=STATIC, tables=learned_tables())
    where = os.path.join(path, "codec.npz")
    with open(where, "r+b") as file:
        file.seek(60)
        file.write(b"!")
    assert "codec.npz was changed after export" in refusal(path)
    assert "codec.npz was changed after export" in refusal(path, lambda path: Bundle.load(path, verify=False))
    os.remove(where)
    assert "codec.npz is missing from the bundle" in refusal(path)


def test_a_bundle_whose_codec_lacks_its_tables_is_refused(fake_bundle):
    for name, table in (("learned", "classes"), ("zdict", "dictionary"), ("jpeg-lean", "jpeg_header")):
        path = fake_bundle(folder=name, codec={"name": name, "bits": 8, "quality": 20})
        assert "the codec {} needs".format(name) in refusal(path)
        assert table in refusal(path)
    range_only = {"range": learned_tables()["range"]}
    path = fake_bundle(folder="static", codec=STATIC, tables=range_only)
    assert "the codec learned needs classes, frequencies in codec.npz" in refusal(path)

    def forget_the_file(manifest):
        del manifest["files"]["codec.npz"]

    path = fake_bundle(folder="forgotten", codec=STATIC, tables=learned_tables(), edit=forget_the_file)
    assert "a static range comes from calibration" in refusal(path)


def test_tables_of_another_feature_are_refused(fake_bundle):
    def widen(manifest):
        manifest["feature"]["shape"] = [1, 5, 4, 4]

    path = fake_bundle(codec=STATIC, tables=learned_tables(), edit=widen)
    assert "do not fit features (5, 4, 4) with 2 bits" in refusal(path)


def test_tables_that_would_fill_the_memory_are_refused_unread(fake_bundle, monkeypatch):
    path = fake_bundle(codec=STATIC, tables=learned_tables())
    monkeypatch.setattr("bottlekit.device.bundle._MAX_CODEC_BYTES", 100)
    assert "its arrays have at most 100" in refusal(path)


def test_a_codec_that_nobody_here_knows_is_named_with_who_wrote_it(fake_bundle):
    def from_the_future(manifest):
        manifest["bottlekit"] = "7.8.9"
        manifest["codec"]["name"] = "quantum"

    message = refusal(fake_bundle(folder="name", edit=from_the_future))
    assert "(written by bottlekit 7.8.9): codec 'quantum' does not exist; there are: jpeg" in message

    def newer(manifest):
        manifest["bottlekit"] = "7.8.9"
        manifest["codec"]["version"] = 2

    message = refusal(fake_bundle(folder="version", edit=newer))
    assert "(written by bottlekit 7.8.9): the codec raw has version 2, and this bottlekit knows up to 1" in message


def test_a_copy_for_one_part_has_the_tables_too(fake_bundle):
    path = fake_bundle(codec=STATIC, tables=learned_tables())
    for part in ("tail", "full", "baseline"):
        os.remove(os.path.join(path, part + ".onnx"))
    assert Bundle.load(path, parts=("head",)).codec.value_range is not None
