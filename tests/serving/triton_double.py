"""A double of Triton's gRPC service, in this process: it answers as the built-in server, or fails as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from bottlekit.device.bundle import Bundle
from bottlekit.device.service import TAIL, WHOLE, Served, TailService, runner_from_onnx
from bottlekit.serving.kserve import SERVICE, method
from bottlekit.serving.triton_repository import ensemble_name, whole_name

NAMES = ("ServerReady", "ModelReady", "ModelInfer")


class TritonDouble(grpc.GenericRpcHandler):
    """What a Triton with the repository of these bundles says, and what tests do to it.

    `well` False: it says that it is not ready. `models`: what it has. `spoil(request, response)` changes an answer.
    `left_s`: how long each inference still had until its deadline. `refuse`: the status and words of every
    inference. `hold`: while cleared, no inference is answered.
    """

    def __init__(self, bundles: list[Bundle], service: TailService) -> None:
        self._service = service
        self._parts: dict[str, tuple[str, int]] = {}
        for number, bundle in enumerate(bundles):
            self._parts[ensemble_name(bundle)] = (TAIL, number)
            self._parts[whole_name(bundle)] = (WHOLE, number)
        self.models = set(self._parts)
        self.well = True
        self.asked: list[str] = []
        self.left_s: list[float] = []
        self.spoil: Callable[[Any, Any], object] = lambda request, response: None
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.hold = threading.Event()
        self.hold.set()

    def service(self, details: Any) -> Any:
        """grpc asks for the handler of each call."""
        name = details.method.removeprefix(SERVICE)
        if name not in NAMES:
            return None
        call = method(name)
        return grpc.unary_unary_rpc_method_handler(
            getattr(self, name),
            request_deserializer=call.request.FromString,
            response_serializer=call.response.SerializeToString,
        )

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return method("ServerReady").response(ready=self.well)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return method("ModelReady").response(ready=request.name in self.models)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request.model_name)
        self.left_s.append(context.time_remaining())
        assert self.hold.wait(120)
        if self.refuse is not None:
            context.abort(*self.refuse)
        if request.model_name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}'")
        part, number = self._parts[request.model_name]
        content = request.raw_input_contents[0]
        assert int.from_bytes(content[:4], "little") == len(content) - 4
        assert list(request.inputs[0].shape) == [1, 1]
        (outcome,) = self._service.run(part, number, [content[4:]])
        if not isinstance(outcome, Served):
            words = f"in ensemble '{request.model_name}', bottlekit {type(outcome).__name__}: {outcome}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
        response = method("ModelInfer").response(
            model_name=request.model_name, id=request.id, raw_output_contents=[outcome.logits.tobytes()]
        )
        response.outputs.add(name="logits", datatype="FP32", shape=[1, len(outcome.logits)])
        self.spoil(request, response)
        return response


@contextlib.contextmanager
def triton_double(
    bundles: list[Bundle], port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[TritonDouble, str, grpc.Server]]:
    """(the double, its address, the grpc server that a test may stop); with `credentials` it speaks TLS."""
    with TailService(bundles, runner_from_onnx(threads=1)) as service, ThreadPoolExecutor(16) as threads:
        double = TritonDouble(bundles, service)
        server = grpc.server(threads, handlers=[double], options=[("grpc.so_reuseport", 0)])
        address = f"127.0.0.1:{port}"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        try:
            yield double, f"127.0.0.1:{port}", server
        finally:
            double.hold.set()
            server.stop(None).wait()
