import pytest

from bottlekit.device.errors import BundleError
from bottlekit.device.fields import Fields, is_safe_name

VALUES = {
    "text": "x",
    "none": None,
    "number": 0.5,
    "integer": 3,
    "flag": False,
    "list": [1, 2],
    "texts": ["a", "b"],
    "hash": "0123456789abcdef" * 4,
    "inner": {"deep": {"value": 7}},
}


def fields():
    return Fields(dict(VALUES), "some.json")


def test_fields_of_the_right_kind_are_given():
    assert fields().any("none") is None
    assert fields().text("text") == "x"
    assert fields().safe_name("text") == "x"
    assert fields().sha256("hash") == VALUES["hash"]
    assert fields().flag("flag") is False
    assert fields().integer("integer", 3, 3) == 3
    assert fields().number("number", 0, 1) == 0.5
    assert fields().number("integer", 0, 3) == 3.0
    assert fields().number_or_none("none", 0, 1) is None
    assert fields().number_or_none("number", 0, 1) == 0.5
    assert fields().integers("list", 2, 1, 2) == [1, 2]
    assert fields().numbers("list", 2, 1, 2) == [1.0, 2.0]
    assert fields().texts("texts") == ["a", "b"]
    assert fields().object("inner").object("deep").integer("value", 0, 9) == 7


@pytest.mark.parametrize(
    ("read", "complaint"),
    [
        (lambda fields: fields.any("gone"), "some.json lacks gone"),
        (lambda fields: fields.object("inner").object("deep").any("gone"), "some.json lacks inner.deep.gone"),
        (lambda fields: fields.object("text"), "some.json: text must be an object, not 'x'"),
        (lambda fields: fields.object("list"), "list must be an object, not [1, 2]"),
        (lambda fields: fields.text("none"), "none must be a string, not None"),
        (lambda fields: fields.flag("integer"), "integer must be true or false, not 3"),
        (lambda fields: fields.sha256("text"), "text must be a SHA-256 of 64 lower-case hex digits, not 'x'"),
        (lambda fields: fields.integer("flag", 0, 1), "flag must be an integer from 0 to 1, not False"),
        (lambda fields: fields.integer("number", 0, 1), "number must be an integer from 0 to 1, not 0.5"),
        (lambda fields: fields.integer("integer", 0, 2), "integer must be an integer from 0 to 2, not 3"),
        (lambda fields: fields.integer("integer", 4, 5), "integer must be an integer from 4 to 5, not 3"),
        (lambda fields: fields.number("flag", 0, 1), "flag must be a number from 0 to 1, not False"),
        (lambda fields: fields.number("number", 0, 0.4), "number must be a number from 0 to 0.4, not 0.5"),
        (lambda fields: fields.number("none", 0, 1), "none must be a number from 0 to 1, not None"),
        (
            lambda fields: fields.integers("list", 3, 1, 2),
            "list must be a list of 3 integers from 1 to 2, not [1, 2]",
        ),
        (lambda fields: fields.integers("list", 2, 2, 2), "list must be a list of 2 integers"),
        (lambda fields: fields.numbers("texts", 2, 0, 1), "texts must be a list of 2 numbers from 0 to 1"),
        (lambda fields: fields.numbers("number", 1, 0, 1), "number must be a list of 1 numbers"),
        (lambda fields: fields.texts("list"), "list must be a list of strings, not [1, 2]"),
        (lambda fields: fields.texts("text"), "text must be a list of strings, not 'x'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_that_are_missing_or_of_another_kind_are_named(read, complaint):
    with pytest.raises(BundleError) as caught:
        read(fields())
    assert complaint in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(value):
    with pytest.raises(BundleError, match="must be a number"):
        Fields({"x": value}, "some.json").number("x", -1e308, float("inf"))


@pytest.mark.parametrize("value", [[], "text", None, 1])
def test_only_objects_have_fields(value):
    with pytest.raises(BundleError, match=r"some.json: it must be an object"):
        Fields(value, "some.json")


def test_long_values_are_cut_in_the_message():
    with pytest.raises(BundleError) as caught:
        Fields({"x": "y" * 1000}, "some.json").flag("x")
    assert str(caught.value).endswith("y...")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["a", "net-rb1", "resnet18_v1.5+x", "1", "A" * 120])
def test_names_for_files_are_safe(name):
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a b", "a\n", "a\0", "ä", "A" * 121, "~a"]
)
def test_names_that_could_lead_elsewhere_are_not(name):
    assert not is_safe_name(name)
