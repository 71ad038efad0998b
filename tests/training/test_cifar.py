import os
import pickle
import struct

import numpy as np
import pytest

from bottlekit.errors import DataError
from bottlekit.training.cifar import cifar, dictionary_from_pickle
from bottlekit.training.data import dataset_from_name

NAMES = [f"class{number}" for number in range(10)]


def _planes(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def _labels(count):
    return [number % 10 for number in range(count)]


@pytest.fixture
def binary10(tmp_path):
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for number, file in enumerate([f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]):
        rows = np.concatenate([np.array(_labels(4), dtype=np.uint8)[:, None], _planes(4, number)], axis=1)
        (root / file).write_bytes(rows.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


@pytest.fixture
def python10(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    for number, file in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
        batch = {b"data": _planes(4, number), b"labels": _labels(4), b"filenames": [b"x.png"] * 4}
        (root / file).write_bytes(pickle.dumps(batch, protocol=2))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in NAMES]}, protocol=2))
    return root


def test_both_formats_hold_the_same_images(binary10, python10):
    from_binary, from_python = cifar("cifar10", binary10), cifar("cifar10", python10)
    assert from_binary[2] == from_python[2] == NAMES
    for left, right in zip(from_binary[:2], from_python[:2], strict=True):
        assert np.array_equal(left.images, right.images)
        assert left.labels == right.labels
    assert from_binary[0].images.shape == (20, 32, 32, 3)
    assert from_binary[1].images.shape == (4, 32, 32, 3)


def test_colours_are_planes_in_the_file_and_last_in_the_image(binary10):
    train, _, _ = cifar("cifar10", binary10)
    first = _planes(4, 0)[0]
    assert train.image(0)[0, 0].tolist() == [first[0], first[1024], first[2048]]
    assert train.image(0)[1, 0].tolist() == [first[32], first[1024 + 32], first[2048 + 32]]


def test_the_folder_around_the_archive_works_too(binary10):
    assert cifar("cifar10", binary10.parent)[2] == NAMES


def test_cifar100_uses_the_fine_labels(tmp_path):
    for file in ("train.bin", "test.bin"):
        label_bytes = np.array([[3, 70], [4, 99]], dtype=np.uint8)
        (tmp_path / file).write_bytes(np.concatenate([label_bytes, _planes(2, 0)], axis=1).tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"f{number}" for number in range(100)))
    train, _, classes = cifar("cifar100", tmp_path)
    assert train.labels == [70, 99]
    assert len(classes) == 100
    assert np.array_equal(train.image(0)[:, :, 0].ravel(), _planes(2, 0)[0][:1024])


def _python2_pickle(data, labels):
    """What Python 2 wrote: its str, read as bytes, for keys and for the array's content."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
        b"(" + number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR(" + number(3) + text(b"|")
        + b"NNN" + number(-1) + number(-1) + number(0) + b"tb" + b"\x89" + text(data.tobytes()) + b"tb"
    )  # fmt: skip
    label_list = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + label_list + b"u."


def test_pickles_of_python_2_are_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(_python2_pickle(_planes(3, 9), [1, 2, 3]))
    batch = dictionary_from_pickle(tmp_path / "data_batch_1")
    assert np.array_equal(batch[b"data"], _planes(3, 9))
    assert batch[b"labels"] == [1, 2, 3]


class _Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_refused_and_not_run(python10, tmp_path):
    marker = tmp_path / "it-ran"
    content = pickle.dumps({b"data": _Malicious(marker), b"labels": []}, protocol=2)
    (python10 / "data_batch_2").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_2: .*system, which no CIFAR file needs"):
        cifar("cifar10", python10)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists(), "the pickle would have run code"


@pytest.mark.parametrize("name", ["numpy.load", "builtins.eval", "numpy.fromfile"])
def test_other_names_are_refused_even_from_numpy(tmp_path, name):
    module, attribute = name.rsplit(".", 1)
    (tmp_path / "batch").write_bytes(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b".")
    with pytest.raises(DataError, match=name):
        dictionary_from_pickle(tmp_path / "batch")


def test_a_damaged_pickle_is_named(python10):
    whole = (python10 / "test_batch").read_bytes()
    (python10 / "test_batch").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"test_batch is damaged .*unpack the archive again"):
        cifar("cifar10", python10)


def test_a_truncated_binary_file_is_named(binary10):
    whole = (binary10 / "test_batch.bin").read_bytes()
    (binary10 / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin has .* bytes, not a multiple of 3073"):
        cifar("cifar10", binary10)


def test_a_missing_batch_is_named(binary10):
    (binary10 / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: No such file"):
        cifar("cifar10", binary10)


def test_labels_out_of_range_are_refused(binary10):
    rows = np.concatenate([np.array([[10]], dtype=np.uint8), _planes(1, 0)], axis=1)
    (binary10 / "test_batch.bin").write_bytes(rows.tobytes())
    with pytest.raises(DataError, match=r"labels 10\.\.10, but there are 10 classes"):
        cifar("cifar10", binary10)


@pytest.mark.parametrize(
    "batch", [{b"labels": [1]}, {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, {b"data": "x"}, [1, 2]]
)
def test_another_pickle_is_no_batch(python10, batch):
    (python10 / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=r"is no batch of CIFAR images|not a dictionary"):
        cifar("cifar10", python10)


def test_an_empty_folder_says_which_archive_is_expected(tmp_path):
    with pytest.raises(DataError, match="cifar-10-batches-bin or cifar-10-batches-py"):
        cifar("cifar10", tmp_path)


def test_the_data_set_is_normalised_and_padded_crops_keep_the_size(binary10):
    data = dataset_from_name("cifar10", root=binary10)
    assert data.input_size == 32
    assert data.train[0][0].shape == (3, 32, 32)
    assert data.val[0][1] == 0
