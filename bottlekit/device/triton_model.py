"""What runs in NVIDIA Triton's Python backend: the island's own decoders, and graphs where nothing else runs them.

::

    payload (n, 1) bytes    --PayloadModel--> feature (n, c, h, w) float32
    file (n, 1) bytes       --ImageModel----> image (n, 3, h, w) float32
    feature or image        --GraphModel----> logits (n, classes) float32

Each is a model of its own, in processes of its own. `bottlekit export-triton` writes a model.py that imports one of
them, and what it reads: step.json, and codec.npz or graph.onnx. A request that cannot be decoded is answered with
an error, and no other is touched by it.
"""

import os
from typing import Any, Callable, Dict, List

import numpy as np

from .codecs import codec_from_spec
from .errors import BottlekitError, CodecError, DataError
from .files import read_json
from .images import image_from_bytes, input_from_image
from .ort_runner import OnnxRuntimeRunner
from .service import MAX_IMAGE_PIXELS

STEP_FILE = "step.json"
TABLES_FILE = "codec.npz"
GRAPH_FILE = "graph.onnx"
PAYLOAD, IMAGE_FILE, LOGITS = "payload", "file", "logits"

# How a decoder's error begins in Triton's words: the class comes next, so that the front end raises the same one.
ERROR_MARK = "bottlekit "


class _Model:
    """What Triton asks of a Python model; `_load` and `execute` are the subclasses'."""

    def initialize(self, args: Dict[str, str]) -> None:
        """Triton calls it once: `model_repository` is the model's folder, `model_version` a folder in it."""
        folder = os.path.join(args["model_repository"], args["model_version"])
        self._load(folder, read_json(os.path.join(folder, STEP_FILE), "step"))

    def _load(self, folder: str, step: Dict[str, Any]) -> None:
        raise NotImplementedError


class _Decoder(_Model):
    """One tensor of byte strings in, (n, 1) or (1,), and one of decoded arrays out, (n, ...)."""

    _input = ""
    _output = ""
    _decode: Callable[[bytes], np.ndarray]

    def execute(self, requests: List[Any]) -> List[Any]:
        """One answer for each request, in their order: what its strings decode to, or why one of them does not."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as triton

        strings = triton.get_input_tensor_by_name(request, self._input).as_numpy()
        try:
            decoded = np.stack([self._decode(bytes(string)) for string in strings.reshape(-1)])
        except (CodecError, DataError) as error:
            words = "{}{}: {}".format(ERROR_MARK, type(error).__name__, error)
            return triton.InferenceResponse([], triton.TritonError(words, triton.TritonError.INVALID_ARG))
        return triton.InferenceResponse([triton.Tensor(self._output, decoded)])


class PayloadModel(_Decoder):
    """A bundle's codec."""

    _input = PAYLOAD
    _output = "feature"

    def _load(self, folder: str, step: Dict[str, Any]) -> None:
        tables = None
        path = os.path.join(folder, TABLES_FILE)
        if os.path.exists(path):
            with np.load(path, allow_pickle=False) as archive:
                tables = {name: archive[name] for name in archive.files}
        c, h, w = step["feature"]
        self._decode = codec_from_spec(step["codec"], (c, h, w), tables).decode


class ImageModel(_Decoder):
    """Image files, as cloud-only requests send them."""

    _input = IMAGE_FILE
    _output = "image"

    def _load(self, folder: str, step: Dict[str, Any]) -> None:
        self._preprocessing = step["preprocessing"]
        self._decode = self._image

    def _image(self, data: bytes) -> np.ndarray:
        return input_from_image(image_from_bytes(data, "the image sent", MAX_IMAGE_PIXELS), self._preprocessing)


class GraphModel(_Model):
    """A tail or a whole network on ONNX Runtime, as the built-in server runs it.

    The requests that Triton hands over together are computed together.
    """

    def _load(self, folder: str, step: Dict[str, Any]) -> None:
        self._runner = OnnxRuntimeRunner(os.path.join(folder, GRAPH_FILE), threads=step["threads"], spin=False)
        self._runner.__enter__()
        self._input = self._runner.inputs[0].name

    def execute(self, requests: List[Any]) -> List[Any]:
        """One answer for each request, in their order; a graph that fails, fails for all of them."""
        import triton_python_backend_utils as triton

        arrays = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        try:
            logits = self._runner.run({self._input: np.concatenate(arrays)})[LOGITS]
        except BottlekitError as error:
            words = "{}{}: {}".format(ERROR_MARK, type(error).__name__, error)
            return [triton.InferenceResponse([], triton.TritonError(words)) for _ in requests]
        ends = np.cumsum([len(array) for array in arrays])
        answers = [logits[end - len(array) : end] for end, array in zip(ends, arrays)]
        return [triton.InferenceResponse([triton.Tensor(LOGITS, one)]) for one in answers]

    def finalize(self) -> None:
        """Triton calls it at the end."""
        self._runner.__exit__(None, None, None)
