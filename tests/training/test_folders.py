import pytest

from bottlekit.errors import DataError
from bottlekit.training.folders import image_folder, miniimagenet, split_by_class


def _touch(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"")


def test_classes_are_sorted_and_other_files_left_out(tmp_path):
    for part in ("train", "val"):
        for name in ("b", "a"):
            _touch(tmp_path / part / name, 2)
            (tmp_path / part / name / "notes.txt").write_text("no image")
        (tmp_path / part / "empty").mkdir()
    train, val, classes = image_folder(tmp_path)
    assert classes == ["a", "b"]
    assert [path.name for path in train.paths] == ["0.png", "1.png", "0.png", "1.png"]
    assert val.labels == [0, 0, 1, 1]


def test_a_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"does not exist; expected a folder with train/<class>"):
        image_folder(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_said(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        image_folder(tmp_path / "images.zip")


def test_another_layout_says_what_was_found(tmp_path):
    _touch(tmp_path / "cat", 1)
    _touch(tmp_path / "dog", 1)
    with pytest.raises(DataError, match=r"has no folder 'train'; expected train/<class>.*found cat, dog"):
        image_folder(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path):
    _touch(tmp_path / "train", 7)
    _touch(tmp_path / "val", 1)
    with pytest.raises(DataError, match=r"train has no class folders.*found 0\.png.* and 2 more"):
        image_folder(tmp_path)


def test_different_classes_in_train_and_val_are_named(tmp_path):
    for part, names in (("train", ["cat", "dog"]), ("val", ["cat", "fox"])):
        for name in names:
            _touch(tmp_path / part / name, 1)
    with pytest.raises(DataError, match="only in train: dog; only in val: fox"):
        image_folder(tmp_path)


def test_one_class_is_too_few(tmp_path):
    for part in ("train", "val"):
        _touch(tmp_path / part / "cat", 1)
    with pytest.raises(DataError, match="at least 2"):
        image_folder(tmp_path)


def test_miniimagenet_trains_on_85_percent_of_every_class(tmp_path):
    for number in range(3):
        _touch(tmp_path / f"n{number}", 20)
    train, val, classes = miniimagenet(tmp_path, classes=3, per_class=20)
    assert classes == ["n0", "n1", "n2"]
    assert train.labels == [0] * 17 + [1] * 17 + [2] * 17
    assert val.labels == [0] * 3 + [1] * 3 + [2] * 3
    assert set(train.paths).isdisjoint(val.paths)
    assert len({*train.paths, *val.paths}) == 60


def test_the_few_shot_layout_holds_the_same_split(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        _touch(tmp_path / "flat" / f"n{number}", 20)
        _touch(tmp_path / "few" / part / f"n{number}", 20)
    flat = miniimagenet(tmp_path / "flat", classes=3, per_class=20)
    few = miniimagenet(tmp_path / "few", classes=3, per_class=20)
    assert few[2] == flat[2]
    for left, right in zip(few[:2], flat[:2], strict=True):
        assert [path.parts[-2:] for path in left.paths] == [path.parts[-2:] for path in right.paths]


def test_the_split_does_not_depend_on_the_order_of_the_files(tmp_path):
    paths = [tmp_path / "cat" / f"{number}.png" for number in range(50)]
    train, val = split_by_class({"cat": paths}, 0.8)
    assert split_by_class({"cat": paths[::-1]}, 0.8) == (train, val)
    assert len(train["cat"]) == 40
    # Not simply the first or the last files, which are often alike.
    assert val["cat"] not in (paths[:10], paths[-10:])


@pytest.mark.parametrize(
    ("classes", "per_class", "reason"),
    [(2, 20, "has 3 class folders with images; expected 2"), (3, 30, "the class n0 has 20 images; expected 3")],
)
def test_miniimagenet_of_another_size_is_refused(tmp_path, classes, per_class, reason):
    for number in range(3):
        _touch(tmp_path / f"n{number}", 20)
    with pytest.raises(DataError, match=reason):
        miniimagenet(tmp_path, classes=classes, per_class=per_class)


def test_a_class_in_two_parts_of_the_few_shot_layout_is_refused(tmp_path):
    for part in ("train", "val", "test"):
        _touch(tmp_path / part / "same", 2)
    with pytest.raises(DataError, match="the class same is in two of train, val and test"):
        miniimagenet(tmp_path)
