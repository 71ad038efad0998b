import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.errors import BundleError, UsageError
from bottlekit.device.files import (
    read_json,
    sha256_of_file,
    sha256_of_json,
    whole_file,
    whole_folder,
    write_json,
)


def write(path, text):
    with open(str(path), "w") as file:
        file.write(text)


def read(path):
    with open(str(path)) as file:
        return file.read()


def break_off(path, error):
    write(path, "half")
    raise error("broken off")


def needs_rights():
    return pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


class Interrupted(BaseException):
    """Like KeyboardInterrupt, which pytest keeps for itself."""


# One file


def test_a_whole_file_appears_with_its_folders_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with whole_file(str(path)) as temporary:
        assert not path.exists()
        write(temporary, "new")
    assert read(path) == "new"
    assert os.listdir(str(path.parent)) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, Interrupted])
def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file.txt"
    write(path, "old")
    with pytest.raises(error), whole_file(str(path)) as temporary:
        break_off(temporary, error)
    assert read(path) == "old"
    assert os.listdir(str(tmp_path)) == ["file.txt"]


def test_until_the_end_a_reader_sees_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write(path, "old")
    with whole_file(str(path)) as temporary:
        write(temporary, "new")
        assert read(path) == "old"
    assert read(path) == "new"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write(path, "old")
    program = (
        "import os, sys; from bottlekit.device.files import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    open(temporary, 'w').write('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.call([sys.executable, "-c", program, str(path)]) == -9
    assert read(path) == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_and_folders_get_the_usual_rights(tmp_path, umask):
    before = os.umask(umask)
    try:
        with whole_file(str(tmp_path / "file")) as temporary:
            write(temporary, "")
        with whole_folder(str(tmp_path / "folder")):
            pass
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert os.stat(str(tmp_path / "file")).st_mode & 0o777 == 0o666 & ~umask
    assert os.stat(str(tmp_path / "folder")).st_mode & 0o777 == 0o777 & ~umask


def test_a_place_that_is_no_folder_is_refused_in_one_line(tmp_path):
    write(tmp_path / "file", "")
    for writer in (whole_file, whole_folder):
        with pytest.raises(UsageError, match=r"cannot write .*file/inside"):
            with writer(str(tmp_path / "file" / "inside")):
                pytest.fail("nothing can be written there")


@needs_rights()
def test_a_place_without_rights_is_refused_in_one_line(tmp_path):
    os.chmod(str(tmp_path), 0o500)
    for writer in (whole_file, whole_folder):
        with pytest.raises(UsageError, match="Permission denied"), writer(str(tmp_path / "new")):
            pytest.fail("nothing can be written there")


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*folder"):
        with whole_file(str(tmp_path / "folder")):
            pass
    assert os.listdir(str(tmp_path)) == ["folder"]


# One folder


def test_a_whole_folder_appears_with_its_parents_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "bundle"
    with whole_folder(str(path)) as temporary:
        write(os.path.join(temporary, "one"), "1")
        assert not path.exists()
    assert read(path / "one") == "1"
    assert os.listdir(str(tmp_path / "a")) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError, OSError, Interrupted])
@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_the_old_folder_or_none(tmp_path, error, exists):
    path = tmp_path / "bundle"
    if exists:
        path.mkdir()
        write(path / "old", "old")
    with pytest.raises(error), whole_folder(str(path), force=True) as temporary:
        break_off(os.path.join(temporary, "new"), error)
    assert os.listdir(str(tmp_path)) == (["bundle"] if exists else [])
    assert not exists or os.listdir(str(path)) == ["old"]


def test_what_exists_is_refused_without_force(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UsageError, match="exists already; choose another name or pass --force"):
        with whole_folder(str(tmp_path / "bundle")):
            pytest.fail("the folder exists")
    assert os.listdir(str(tmp_path)) == ["bundle"]


def old_folder(path):
    path.mkdir()
    write(path / "old", "old")


def old_file(path):
    write(path, "old")


def old_link(path):
    (path.parent / "elsewhere").mkdir()
    write(path.parent / "elsewhere" / "precious", "kept")
    path.symlink_to(path.parent / "elsewhere")


def dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make_old", [old_folder, old_file, old_link, dangling_link])
def test_with_force_the_old_one_is_replaced_whatever_it_was(tmp_path, make_old):
    path = tmp_path / "bundle"
    make_old(path)
    with whole_folder(str(path), force=True) as temporary:
        write(os.path.join(temporary, "new"), "new")
    assert os.listdir(str(path)) == ["new"]
    assert not path.is_symlink()
    if make_old is old_link:
        assert read(tmp_path / "elsewhere" / "precious") == "kept"
    assert set(os.listdir(str(tmp_path))) <= {"bundle", "elsewhere"}


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    old_folder(path)
    rename = os.rename

    def refusing(source, target):
        if source.endswith(".part"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refusing)
    with pytest.raises(UsageError, match="No space left on device"), whole_folder(str(path), force=True):
        pass
    assert os.listdir(str(tmp_path)) == ["bundle"]
    assert os.listdir(str(path)) == ["old"]


def test_the_folder_the_user_is_in_is_never_replaced(tmp_path, monkeypatch):
    inner = tmp_path / "work" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for path in (".", str(inner), str(tmp_path / "work")):
        with pytest.raises(UsageError, match="is not replaced"), whole_folder(path, force=True):
            pytest.fail("the current folder would be lost")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(inner))
    with pytest.raises(UsageError, match="is not replaced"), whole_folder(str(tmp_path / "work"), force=True):
        pytest.fail("the home folder would be lost")
    assert inner.is_dir()


# Hashes and JSON

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_of_a_file_is_that_of_its_content(tmp_path, size):
    content = b"x" * size
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(str(tmp_path / "file")) == hashlib.sha256(content).hexdigest()


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_the_hash_of_json_does_not_depend_on_the_order_of_keys(value):
    turned = dict(reversed(list(value.items())))
    assert sha256_of_json(value) == sha256_of_json(turned)
    assert sha256_of_json(json.loads(json.dumps(value))) == sha256_of_json(value)
    assert sha256_of_json(dict(value, **{"one more": 1})) != sha256_of_json(value) or "one more" in value


def test_json_is_written_in_the_order_given_and_ends_with_a_newline(tmp_path):
    write_json(str(tmp_path / "x.json"), {"z": 1, "a": "é", "m": [1.5, None]})
    text = (tmp_path / "x.json").read_bytes().decode("utf-8")
    assert text == '{\n  "z": 1,\n  "a": "é",\n  "m": [\n    1.5,\n    null\n  ]\n}\n'
    assert read_json(str(tmp_path / "x.json"), "profile") == {"z": 1, "a": "é", "m": [1.5, None]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_values_that_json_does_not_have_are_neither_written_nor_hashed(tmp_path, value):
    write(tmp_path / "x.json", "old")
    with pytest.raises(ValueError):
        write_json(str(tmp_path / "x.json"), {"a": value})
    with pytest.raises(ValueError):
        sha256_of_json(value)
    assert read(tmp_path / "x.json") == "old"
    assert os.listdir(str(tmp_path)) == ["x.json"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no readable profile"),
        (b"{", "is no readable profile"),
        (b'{"a": 1} x', "is no readable profile"),
        (b'{"a": "\xff"}', "is no readable profile"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b"[" * 100000, "is no readable profile"),
        (b'{"a":' * 100000, "is no readable profile"),
        (b"[1]", "holds a JSON list, not an object"),
        (b'"text"', "holds a JSON str, not an object"),
        (b"null", "holds a JSON NoneType, not an object"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_json_object_is_refused_with_its_name(tmp_path, content, complaint):
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=complaint) as caught:
        read_json(str(path), "profile")
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_with_their_names(tmp_path):
    with pytest.raises(BundleError, match=r"no profile at .*nothing.json: the file does not exist"):
        read_json(str(tmp_path / "nothing.json"), "profile")
    with pytest.raises(BundleError, match="is no readable profile"):
        read_json(str(tmp_path), "profile")
