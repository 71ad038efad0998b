"""The client: the head runs here, the payload goes to a server, logits come back."""

import contextlib
import random
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from .. import __version__
from .bundle import Bundle
from .codes import payload_from_outputs
from .errors import BottlekitError, BundleError, RemoteError, ServerUnreachableError, UsageError, WireError
from .images import input_from_image
from .ort_runner import OnnxRuntimeRunner
from .pipeline import whole_part
from .runners import Runner
from .wire import load_rpc
from .wire.addresses import ConnectionLost, connected_socket
from .wire.answers import logits_from_answer
from .wire.framing import (
    ANSWER_CONTAINER_LENGTH,
    ANSWER_FRAME_BYTES,
    MESSAGE_NUMBERS,
    REQUEST_OVERHEAD_BYTES,
    MeteredSocket,
    numbered_protocol,
)
from .wire.refusals import error_from_refused, foreign_words
from .wire.tls import client_context, encrypted_socket, is_alert, refused_by_tls

# Between two attempts to connect again; each is twice as long as the one before, and shortened at random.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_MAX_DEADLINE_MS = (1 << 31) - 1


class InferAnswer(NamedTuple):
    """One image's answer, what it cost in time, and what it cost on the wire.

    `logits` float32 (k,) belong to the classes `class_indices` (k,): class order when all came, best first
    otherwise. `times_ms` has "round_trip" (from the request's first byte to the answer's last, the server's
    work included), the server's own "queue", "decode" and "tail" (or "baseline" or "full" for a whole network),
    and in the collaborative setup "head" and "encode"; `batch` requests shared the tail's time.
    `payload_bytes` is what the codec made, or the image file;
    `framed_bytes` all that was sent for it, Thrift and frame included; `response_bytes` all that came back.
    """

    class_index: int
    class_name: str
    logits: np.ndarray
    class_indices: np.ndarray
    times_ms: Dict[str, float]
    payload_bytes: int
    framed_bytes: int
    response_bytes: int
    batch: int = 1

    def top(self, count: int) -> List[Tuple[int, float]]:
        """The `count` best (class, logit), best first."""
        best = np.argsort(-self.logits, kind="stable")[:count]
        return [(int(self.class_indices[i]), float(self.logits[i])) for i in best]


class SplitClient:
    """A connection to a server for one bundle, used as `with SplitClient(bundle, host, port) as client:`.

    image --head--> feature --encode--> payload ==network==> decode, tail ==network==> logits

    Entering connects and says hello; a server that has not this very bundle (name and hash) is refused. The
    head is `head_runner`, open, or ONNX Runtime on the bundle's own file, loaded when first needed.

    A request has `timeout_s` in all, and the server is told so. When the connection breaks, the client connects
    again and asks again (an inference changes nothing, so asking twice does no harm) until that time is over;
    with `reconnect` False it raises WireError at once. After a WireError the next request connects again.

    `tls_folder` is what `bottlekit certs device` made, `server_name` the name in the server's certificate where it
    is not `host`; `token` is for a server that asks for one. One thread at a time.
    """

    def __init__(
        self,
        bundle: Bundle,
        host: str,
        port: int,
        head_runner: Optional[Runner] = None,
        timeout_s: float = 10.0,
        tls_folder: Optional[str] = None,
        server_name: Optional[str] = None,
        token: Optional[bytes] = None,
        reconnect: bool = True,
    ) -> None:
        self._rpc = load_rpc()
        self._bundle = bundle
        self._address = (host, port)
        self._where = "{}:{}".format(host, port)
        self._head = head_runner
        self._timeout_s = timeout_s
        # What hello says holds for the connection, whatever a single request has.
        self._longest_s = timeout_s
        self._context = client_context(tls_folder) if tls_folder is not None else None
        self._server_name = server_name or host
        self._token = token
        self._reconnect = reconnect
        self._number = 0
        self._frame_bytes = 0
        self._idle_s = 0
        self._message = 0
        self._inside = False
        self._wire: Optional[MeteredSocket] = None
        self._protocol: Any = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "SplitClient":
        with contextlib.ExitStack() as undo:
            undo.callback(self._hang_up)
            self._connect(time.monotonic() + self._timeout_s)
            undo.pop_all()
        self._inside = True
        return self

    def __exit__(self, *_exception: object) -> None:
        self._inside = False
        self._hang_up()
        self._open.close()

    def load_head(self) -> Runner:
        """The head's runner; loads it if it was neither given nor used before."""
        if self._head is None:
            self._head = self._open.enter_context(OnnxRuntimeRunner(self._bundle.onnx_path("head")))
        return self._head

    def infer_image(self, image: np.ndarray, top_k: int = 0) -> InferAnswer:
        """Classify an image, uint8 (h, w, 3), any size: preprocessed as the bundle says. See infer_input."""
        return self.infer_input(input_from_image(image, self._bundle.preprocessing)[np.newaxis], top_k)

    def infer_input(self, image: np.ndarray, top_k: int = 0) -> InferAnswer:
        """Classify a preprocessed image, float32 (1, 3, h, w): the collaborative setup.

        `top_k` 0 asks for all logits, otherwise for the best few. Raises WireError, RemoteError, PayloadError.
        """
        head = self.load_head()
        started = time.perf_counter()
        outputs = head.run({"image": image})
        head_done = time.perf_counter()
        payload = payload_from_outputs(self._bundle.codec, outputs)
        encode_done = time.perf_counter()
        times_ms = {"head": (head_done - started) * 1e3, "encode": (encode_done - head_done) * 1e3}
        return self._infer("infer", "tail", payload, top_k, times_ms)

    def infer_cloud_only(self, data: bytes, top_k: int = 0) -> InferAnswer:
        """Have the server classify an image file (JPEG or PNG) all by itself: the cloud-only setup.

        The server runs the baseline network, or the full graph where the bundle has no baseline; `times_ms`
        says which by its key. Raises DataError when the server cannot read the image.
        """
        return self._infer("infer_image", whole_part(self._bundle), data, top_k, {})

    def ping(self, padding_bytes: int = 0) -> Tuple[float, Dict[str, int]]:
        """(round trip in ms, the server's load) of a request with so many bytes in it."""
        started = time.perf_counter()
        load = self._ask("a ping", padding_bytes, "ping", bytes(padding_bytes))
        elapsed_ms = (time.perf_counter() - started) * 1e3
        return elapsed_ms, {
            "connections": load.connections,
            "in_flight": load.in_flight,
            "answered": load.answered,
            "queued": load.queued or 0,
        }

    def _infer(self, method: str, part: str, data: bytes, top_k: int, times_ms: Dict[str, float]) -> InferAnswer:
        if not 0 <= top_k <= 32767:
            raise UsageError("top_k must be 0 (all logits) or at most 32767, not {}".format(top_k))
        what = "the payload" if part == "tail" else "the image file"
        started = time.perf_counter()
        answer = self._ask(what, len(data), method, self._number, data, top_k, None)
        times_ms["round_trip"] = (time.perf_counter() - started) * 1e3
        wire = self._connected()
        times_ms["queue"] = (answer.queue_us or 0) / 1e3
        times_ms["decode"] = (answer.decode_us or 0) / 1e3
        times_ms[part] = (answer.tail_us or 0) / 1e3
        classes = self._bundle.classes
        indices, logits = logits_from_answer(answer, len(classes))
        best = int(indices[np.argmax(logits)])
        return InferAnswer(
            class_index=best,
            class_name=classes[best],
            logits=logits,
            class_indices=indices,
            times_ms=times_ms,
            payload_bytes=len(data),
            framed_bytes=wire.sent_bytes,
            response_bytes=wire.received_bytes,
            batch=answer.batch or 1,
        )

    def _connect(self, deadline: float) -> None:
        """Connect, prove who this is, and say hello."""
        from thrift.transport.TTransport import TFramedTransport

        remaining_s = max(deadline - time.monotonic(), 1e-3)
        connected = connected_socket(*self._address, remaining_s)
        if self._context is not None:
            connected = encrypted_socket(connected, self._context, self._server_name, self._where)
        self._wire = MeteredSocket(connected, self._timeout_s)
        framed = TFramedTransport(self._wire, ANSWER_FRAME_BYTES)
        self._protocol = numbered_protocol(framed, ANSWER_FRAME_BYTES, ANSWER_CONTAINER_LENGTH)
        self._client = self._rpc.service.Client(self._protocol)
        try:
            self._hello(deadline)
        except BaseException:
            self._hang_up()
            raise

    def _hello(self, deadline: float) -> None:
        """Say hello and find this bundle among the server's."""
        timeout_ms = max(1, min(int(self._longest_s * 1e3), _MAX_DEADLINE_MS))
        hello = (self._rpc.constants.PROTOCOL, __version__, self._token, timeout_ms)
        welcome = self._call(deadline, "hello", *hello)
        if welcome.bundles is None or welcome.limits is None or welcome.limits.frame_bytes is None:
            raise WireError("{} answers hello without its bundles and limits".format(self._where))
        self._frame_bytes = welcome.limits.frame_bytes
        self._idle_s = welcome.limits.idle_s or 0
        mine = self._bundle
        for number, info in enumerate(welcome.bundles):
            if info.name == mine.name and info.sha256 == mine.sha256:
                self._number = number
                return
        for info in welcome.bundles:
            if info.name == mine.name:
                raise BundleError(
                    "{} serves another export of {}: {} there, {} here; use the same folder on both sides".format(
                        self._where, mine.name, _short(info.sha256), _short(mine.sha256)
                    )
                )
        offered = ["{} ({})".format(foreign_words(info.name), _short(info.sha256)) for info in welcome.bundles]
        raise BundleError(
            "{} does not serve {} ({}); it serves: {}".format(
                self._where, mine.name, _short(mine.sha256), ", ".join(offered) or "nothing"
            )
        )

    def _connected(self) -> MeteredSocket:
        if self._wire is None:
            raise WireError("not connected to {}; use the client inside `with`".format(self._where))
        return self._wire

    def _check_fits(self, what: str, size: int) -> None:
        if size > self._frame_bytes - REQUEST_OVERHEAD_BYTES:
            raise UsageError(
                "{} has {} bytes; the server at {} takes at most {}".format(
                    what, size, self._where, self._frame_bytes - REQUEST_OVERHEAD_BYTES
                )
            )

    def _ask(self, what: str, size: int, method: str, *arguments: object) -> Any:
        """A request's answer, over as many connections as it takes within the time a request has."""
        deadline = time.monotonic() + self._timeout_s
        if not self._inside:
            self._connected()
        pause_s = 0.0
        while True:
            try:
                if self._wire is None:
                    self._connect(deadline)
                self._check_fits(what, size)
                # A server that was started again may have given this bundle another number.
                given = arguments if method == "ping" else (self._number,) + arguments[1:]
                return self._call(deadline, method, *given)
            except (ConnectionLost, ServerUnreachableError):
                remaining_s = deadline - time.monotonic()
                if not self._reconnect or remaining_s < _FIRST_PAUSE_S:
                    raise
            # Many clients lose a server at the same moment, and must not all come back in one.
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), remaining_s))
            pause_s = min(max(2.0 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _call(self, deadline: float, method: str, *arguments: object) -> Any:
        """One request and its answer. Whatever breaks the conversation closes the connection."""
        wire = self._connected()
        wire.begin_request(deadline)
        self._message = self._message % (MESSAGE_NUMBERS - 1) + 1
        self._client._seqid = self._message
        call: Callable[..., Any] = getattr(self._client, method)
        try:
            answer = call(*arguments)
        except WireError:
            raise
        except Exception as failure:
            error = self._error_from_failure(failure, method)
        else:
            self._check_number(method)
            return answer
        raise error

    def _error_from_failure(self, failure: Exception, method: str) -> BottlekitError:
        """What to raise for what Thrift raised; closes the connection unless that was an answer."""
        from thrift.Thrift import TApplicationException
        from thrift.transport.TTransport import TTransportException

        if isinstance(failure, self._rpc.types.Refused):
            self._check_number(method)
            return error_from_refused(failure, self._where)
        if isinstance(failure, TApplicationException):
            return RemoteError("{} could not answer {}: {}".format(self._where, method, foreign_words(failure)))
        self._hang_up()
        if not isinstance(failure, TTransportException):
            # Thrift's decoder raises what it likes on bytes that are no Thrift.
            problem = "answers with something that is no bottlekit answer ({}: {})".format(
                type(failure).__name__, foreign_words(failure)
            )
        elif failure.type == TTransportException.TIMED_OUT:
            problem = "did not answer {} within {:g} s".format(method, round(self._timeout_s, 3))
        elif failure.type == TTransportException.SIZE_LIMIT:
            problem = "answers with something that is no bottlekit answer ({})".format(failure)
        elif is_alert(failure.inner):
            return refused_by_tls(failure.inner, self._where)
        else:
            return ConnectionLost(
                "{} closed the connection instead of answering {}; it may have stopped, or be full{}".format(
                    self._where, method, self._more_reasons() if method == "hello" else ""
                )
            )
        return WireError("{} {}".format(self._where, problem))

    def _more_reasons(self) -> str:
        # A server's refusal of a certificate may not reach a client that has finished its half of the handshake.
        if self._context is None:
            return ", or want --tls"
        return ", or not let this device's certificate in"

    def _check_number(self, method: str) -> None:
        """An answer must carry its request's number: any other is somebody else's."""
        if self._protocol.number != self._message:
            self._hang_up()
            raise WireError(
                "{} answers {} number {} with number {}".format(
                    self._where, method, self._message, self._protocol.number
                )
            )

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _short(sha256: object) -> str:
    """Enough of a hash to see that two differ."""
    return foreign_words(sha256)[:8]
