import os

import pytest

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.errors import BundleError


def refusal(path):
    """The one-line message with which a fleet is refused."""
    with pytest.raises(BundleError) as caught:
        fleet_from_path(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    assert os.path.join(path, "tail.onnx") in refusal(str(tmp_path / "fleet"))


def test_two_bundles_of_one_name_are_refused(fake_bundle, tmp_path):
    fake_bundle("fleet/a", name="net")
    fake_bundle("fleet/b", name="net", index=2)
    assert "are both named net" in refusal(str(tmp_path / "fleet"))


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
    message = refusal(str(tmp_path / "fleet"))
    assert "are no fleet: their {} differ".format(complaint) in message
