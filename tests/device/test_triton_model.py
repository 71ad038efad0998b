"""The models of Triton's Python backend, on a double of the one module that Triton gives them."""

import os
import shutil
import sys
import types

import numpy as np
import pytest

from bottlekit.device import triton_model
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.files import write_json
from bottlekit.device.service import WHOLE, TailService, runner_from_onnx

FLEET = os.path.join(os.path.dirname(__file__), os.pardir, "data", "tiny_fleet")


class Tensor:
    def __init__(self, name, array):
        self.name = name
        self.array = array

    def as_numpy(self):
        return self.array


class TritonError(Exception):
    INVALID_ARG = "invalid argument"

    def __init__(self, words, code="internal"):
        super(TritonError, self).__init__(words)
        self.words = words
        self.code = code


class InferenceResponse:
    def __init__(self, output_tensors, error=None):
        self.tensors = {tensor.name: tensor.array for tensor in output_tensors}
        self.error = error


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.TritonError = TritonError
    module.InferenceResponse = InferenceResponse
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def loaded(tmp_path):
    """loaded(class, step, **files): a model that was initialised from a folder with these files."""
    models = []

    def load(model_class, step, **files):
        folder = tmp_path / "model" / "1"
        folder.mkdir(parents=True)
        write_json(str(folder / triton_model.STEP_FILE), step)
        for name, source in files.items():
            shutil.copy(source, str(folder / getattr(triton_model, name)))
        model = model_class()
        model.initialize({"model_repository": str(tmp_path / "model"), "model_version": "1"})
        models.append(model)
        return model

    yield load
    for model in models:
        if hasattr(model, "finalize"):
            model.finalize()


def strings(*values):
    """A tensor of byte strings as Triton hands it over, (n, 1)."""
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def bundles():
    return fleet_from_path(FLEET)


def payload_model(loaded, bundle):
    step = {"codec": bundle.manifest["codec"], "feature": list(bundle.feature_shape)}
    return loaded(triton_model.PayloadModel, step)


@pytest.mark.parametrize("number", [0, 1])
def test_payloads_are_decoded_by_the_bundles_codec(loaded, number):
    bundle = bundles()[number]
    golden = bundle.golden()
    payloads = [bundle.codec.encode(feature) for feature in golden["feature"]]
    model = payload_model(loaded, bundle)
    together, alone = model.execute([{"payload": strings(*payloads)}, {"payload": strings(payloads[0])[0]}])
    np.testing.assert_array_equal(together.tensors["feature"], golden["decoded"])
    np.testing.assert_array_equal(alone.tensors["feature"], golden["decoded"][:1])
    assert together.error is None


def test_a_bad_payload_fails_its_own_request(loaded):
    bundle = bundles()[1]
    good = bundle.codec.encode(bundle.golden()["feature"][0])
    model = payload_model(loaded, bundle)
    first, second, third = model.execute(
        [{"payload": strings(good)}, {"payload": strings(good, good + b"x")}, {"payload": strings(good)}]
    )
    assert first.error is None
    assert third.error is None
    assert second.error.code == TritonError.INVALID_ARG
    assert second.error.words.startswith("bottlekit PayloadError: a raw payload of features")
    assert second.tensors == {}


def test_learned_tables_are_read(loaded, fake_bundle, tmp_path):
    random = np.random.RandomState(2)
    tables = {"range": np.array([0.0, 2.0], np.float32)}
    codec = {"name": "raw", "bits": 4, "quality": 20, "range": "static"}
    path = fake_bundle(codec=codec, tables=tables)
    bundle = fleet_from_path(path)[0]
    step = {"codec": codec, "feature": list(bundle.feature_shape)}
    model = loaded(triton_model.PayloadModel, step, TABLES_FILE=os.path.join(path, "codec.npz"))
    feature = random.uniform(0, 2, bundle.feature_shape).astype(np.float32)
    payload = bundle.codec.encode(feature)
    (answer,) = model.execute([{"payload": strings(payload)}])
    np.testing.assert_array_equal(answer.tensors["feature"][0], bundle.codec.decode(payload))


def test_a_graph_gets_the_requests_of_a_batch_together(loaded):
    bundle = bundles()[0]
    model = loaded(triton_model.GraphModel, {"threads": 1}, GRAPH_FILE=bundle.onnx_path("tail"))
    decoded, logits = bundle.golden()["decoded"], bundle.golden()["logits"]
    first, second = model.execute([{"feature": decoded[:2]}, {"feature": decoded[2:3]}])
    np.testing.assert_allclose(first.tensors["logits"], logits[:2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second.tensors["logits"], logits[2:3], rtol=1e-5, atol=1e-6)


def test_a_graph_that_fails_fails_for_all_of_a_batch(loaded):
    bundle = bundles()[0]
    model = loaded(triton_model.GraphModel, {"threads": None}, GRAPH_FILE=bundle.onnx_path("tail"))
    wrong = np.zeros((1, 1, 1, 1), np.float32)
    answers = model.execute([{"feature": wrong}, {"feature": wrong}])
    assert [answer.error.words.startswith("bottlekit EngineError: ") for answer in answers] == [True, True]


def test_an_image_file_to_logits_as_the_built_in_server(loaded, tmp_path):
    from PIL import Image

    path = str(tmp_path / "a.png")
    pixels = np.random.RandomState(4).randint(0, 256, (11, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    with open(path, "rb") as file:
        data = file.read()
    bundle = bundles()[0]
    model = loaded(triton_model.ImageModel, {"preprocessing": bundle.preprocessing})
    good, bad = model.execute([{"file": strings(data)}, {"file": strings(data[:20])}])
    assert bad.error.words.startswith("bottlekit DataError: the image sent")
    with TailService([bundle], runner_from_onnx(threads=1)) as service:
        (expected,) = service.run(WHOLE, 0, [data])
        with service._runner_for(bundle, "baseline") as runner:
            logits = runner.run({"image": good.tensors["image"]})["logits"]
    np.testing.assert_array_equal(logits[0], expected.logits)
