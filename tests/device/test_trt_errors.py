import pytest

from bottlekit.device.trt_errors import cause_of_exit, classify, explain

SAID = {
    "slow-fp16": ["Half2 support requested on hardware without native FP16 support, performance will be affected."],
    "unsupported-gpu": [
        "Error Code 9: API Usage Error (Target GPU SM 61 is not supported by this TensorRT release.)",
        "Unsupported SM: 0x601",
    ],
    "other-version": [
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 8.2.1 got "
        "8.6.1, please rebuild.",
        "Error Code 1: Serialization (Serialization assertion stdVersionRead == serializationVersion failed."
        "Version tag does not match. Note: Current Version: 205, Serialized Engine Version: 213)",
    ],
    "other-gpu": [
        "The engine plan file is generated on an incompatible device, expecting compute 6.2 got compute 8.9, "
        "please rebuild."
    ],
    "not-a-plan": [
        "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not "
        "match)"
    ],
    "unsupported-op": [
        "No importer registered for op: GridSample. Attempting to import as plugin.",
        "Assertion failed: creator && Plugin not found, are the plugin name, version, and namespace correct?",
    ],
    "out-of-memory": [
        "Tactic Device request: 1122MB Available: 893MB. Device memory is insufficient to use tactic.",
        "Error Code 10: Internal Error (Could not find any implementation for node Conv_0 + Relu_1.)",
        "Error Code 2: OutOfMemory (no further information)",
    ],
    "cuda-context": ["Error Code 1: Cuda Runtime (invalid device context)", "PyCUDA: context stack was not empty"],
    "illegal-instruction": ["Illegal instruction (core dumped)"],
    "fp16-overflow": ["Detected 3 FP32 values which would overflow in FP16 and converted them to infinity"],
    "no-profile": ["Network has dynamic or shape inputs, but no optimization profile has been defined."],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SAID.items() for text in texts])
def test_each_known_text_has_its_cause(name, text):
    assert classify(text).name == name


def test_an_unknown_text_has_none_and_is_passed_on():
    assert classify("Error Code 3: a new one") is None
    assert explain(["first", "Error Code 3:\n  a new one"]) == "Error Code 3: a new one"


def test_explaining_is_one_line_with_the_advice_and_the_last_words():
    text = explain(["some\nwarning", SAID["other-gpu"][0]])
    assert "\n" not in text
    assert "build it again on this machine" in text
    assert "expecting compute 6.2 got compute 8.9" in text


def test_an_empty_log_says_so():
    assert "no reason" in explain([])


@pytest.mark.parametrize(
    ("status", "name"),
    [(137, "killed"), (-9, "killed"), (-4, "illegal-instruction"), (139, "crashed"), (-11, "crashed")],
)
def test_exit_states_that_mean_something(status, name):
    assert cause_of_exit(status).name == name


@pytest.mark.parametrize("status", [0, 1, 2, -15])
def test_exit_states_that_mean_nothing(status):
    assert cause_of_exit(status) is None
