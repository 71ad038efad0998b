"""What of KServe's open inference protocol, version 2 over gRPC, is spoken with Triton.

The messages are declared here field by field and built when first used, with protobuf and without code that protoc
generated: such code is tied to the major version of protobuf that it was generated for.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bottlekit.errors import EngineError

SERVICE = "/inference.GRPCInferenceService/"

# Message -> (field, its number, its type, whether it is a list), as the protocol numbers them. What is not spoken
# is left out; protobuf skips it by itself.
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", 1, "bool", False),),
    "ModelReadyRequest": (("name", 1, "string", False),),
    "ModelReadyResponse": (("ready", 1, "bool", False),),
    "Tensor": (("name", 1, "string", False), ("datatype", 2, "string", False), ("shape", 3, "int64", True)),
    "ModelInferRequest": (
        ("model_name", 1, "string", False),
        ("id", 3, "string", False),
        ("inputs", 5, "Tensor", True),
        ("raw_input_contents", 7, "bytes", True),
    ),
    "ModelInferResponse": (
        ("model_name", 1, "string", False),
        ("id", 3, "string", False),
        ("outputs", 5, "Tensor", True),
        ("raw_output_contents", 6, "bytes", True),
    ),
}
_PACKAGE = "bottlekit.kserve"


class Method(NamedTuple):
    """A call of the service: its path, and what writes and reads its messages."""

    path: str
    request: Any
    response: Any

    def on(self, channel: Any) -> Any:
        """The call, on a channel of grpc or grpc.aio."""
        return channel.unary_unary(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )


def method(name: str) -> Method:
    """ServerReady, ModelReady or ModelInfer."""
    messages = _messages()
    return Method(SERVICE + name, messages[name + "Request"], messages[name + "Response"])


def infer_request(model: str, tensor: str, strings: Sequence[bytes], batched: bool, request_id: str = "") -> Any:
    """A ModelInferRequest with one tensor of byte strings: (n, 1), or (1,) where the model takes no batches."""
    messages = _messages()
    shape = [len(strings), 1] if batched else [len(strings)]
    return messages["ModelInferRequest"](
        model_name=model,
        id=request_id,
        inputs=[messages["Tensor"](name=tensor, datatype="BYTES", shape=shape)],
        raw_input_contents=[b"".join(struct.pack("<I", len(one)) + one for one in strings)],
    )


def floats_from_response(
    response: Any, request: Any, tensor: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The one tensor of a ModelInferResponse, float32 of `shape`; EngineError for any answer but this request's."""
    outputs, contents = response.outputs, response.raw_output_contents
    if response.model_name != request.model_name or response.id != request.id:
        raise EngineError(
            f"Triton answered {response.model_name} {response.id}, and was asked {request.model_name} {request.id}"
        )
    if len(outputs) != 1 or len(contents) != 1 or outputs[0].name != tensor or outputs[0].datatype != "FP32":
        raise EngineError(f"Triton's {request.model_name} gave no '{tensor}' of FP32; export its repository again")
    if tuple(outputs[0].shape) != shape or len(contents[0]) != 4 * int(np.prod(shape)):
        raise EngineError(
            f"Triton's {request.model_name} gave '{tensor}' of {tuple(outputs[0].shape)}, not of {shape}; "
            "export its repository again"
        )
    return np.frombuffer(contents[0], "<f4").reshape(shape)


@functools.cache
def _messages() -> dict[str, Any]:
    """The message classes by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="bottlekit/kserve.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, many in fields:
            declared = message.field.add(
                name=field, number=number, label=kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            )
            if kind in _MESSAGES:
                declared.type, declared.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                declared.type = getattr(kinds, "TYPE_" + kind.upper())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(message) for name, message in found.items()}
