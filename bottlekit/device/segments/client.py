"""The client's end of `layers.thrift`: one connection, which knows what it sent and received."""

from typing import Any, Callable, Dict, List, Optional

import numpy as np

from ... import __version__
from ..errors import RemoteError, ServerUnreachableError, UsageError, WireError
from ..wire.addresses import ConnectionLost, connected_socket
from ..wire.framing import MESSAGE_NUMBERS, MeteredSocket, numbered_protocol
from ..wire.layers import error_from_layers_refused, load_layers_rpc
from ..wire.refusals import foreign_words
from ..wire.tls import client_context, encrypted_socket
from .arrays import arrays_from_wire, wire_from_arrays
from .messages import CONTAINER_LENGTH
from .source import Span

# The longest answer that is believed.
ANSWER_BYTES = 256 << 20


class SegmentClient:
    """A connection for a network and its segments, used as `with SegmentClient(...) as client:`.

    Entering connects and says hello. Every call has `timeout_s`; whatever breaks the conversation closes it, and
    the next call raises ConnectionLost. `tls_folder`, `server_name`: as of SplitClient. One thread at a time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        network: str,
        spans: List[Span],
        settings: Dict[str, str],
        timeout_s: float = 10.0,
        tls_folder: Optional[str] = None,
        server_name: Optional[str] = None,
    ) -> None:
        self._rpc = load_layers_rpc()
        self._address = (host, port)
        self.where = "{}:{}".format(host, port)
        self._hello = (network, spans, settings)
        self._codec = settings.get("codec") or None
        self._timeout_s = timeout_s
        self._context = client_context(tls_folder) if tls_folder is not None else None
        self._server_name = server_name or host
        self._frame_bytes = 0
        self._message = 0
        self._wire: Optional[MeteredSocket] = None
        self.sent_bytes = 0
        self.received_bytes = 0

    def __enter__(self) -> "SegmentClient":
        from thrift.transport.TTransport import TFramedTransport

        try:
            connected = connected_socket(*self._address, timeout_s=self._timeout_s)
        except ServerUnreachableError:
            raise ServerUnreachableError(
                "no server answers at {0}; start one with: bottlekit serve-layers CLASSIFIER.onnx".format(
                    self.where
                )
            )
        if self._context is not None:
            connected = encrypted_socket(connected, self._context, self._server_name, self.where)
        self._wire = MeteredSocket(connected, self._timeout_s)
        framed = TFramedTransport(self._wire, ANSWER_BYTES)
        self._protocol = numbered_protocol(framed, ANSWER_BYTES, CONTAINER_LENGTH)
        self._client = self._rpc.service.Client(self._protocol)
        try:
            network, spans, settings = self._hello
            segments = [self._rpc.types.Span(span.first, span.last) for span in spans]
            welcome = self._call("hello", self._rpc.constants.PROTOCOL, __version__, network, segments, settings)
            if not welcome.frame_bytes:
                raise WireError("{} answers hello without its limits".format(self.where))
        except BaseException:
            self.close()
            raise
        self._frame_bytes = welcome.frame_bytes
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def open(self) -> bool:
        """Whether the connection is still there, as far as is known."""
        return self._wire is not None

    def close(self) -> None:
        """Hang up; doing it twice does no harm."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def run(
        self, task: int, segment: int, arrays: Dict[str, np.ndarray], wanted: List[str]
    ) -> Dict[str, np.ndarray]:
        """Have a task of `layers.thrift` done; the arrays `wanted`.

        Raises WireError, RemoteError, BundleError or PayloadError; UsageError for what the server would not take.
        """
        items = wire_from_arrays(arrays, self._codec)
        size = sum(len(item.data) for item in items)
        if size > self._frame_bytes - (1 << 12):
            raise UsageError(
                "{} bytes are to be sent at once; the server at {} takes {}; start it with a larger "
                "--max-mib".format(size, self.where, self._frame_bytes)
            )
        answer = arrays_from_wire(self._call("run", task, segment, items, wanted))
        if wanted and set(answer) != set(wanted):
            self.close()
            raise WireError("{} answers with other tensors than were wanted".format(self.where))
        return answer

    def _call(self, method: str, *arguments: object) -> Any:
        from thrift.Thrift import TApplicationException
        from thrift.transport.TTransport import TTransportException

        if self._wire is None:
            raise ConnectionLost("not connected to {}".format(self.where))
        self._wire.begin_request()
        self._message = self._message % (MESSAGE_NUMBERS - 1) + 1
        self._client._seqid = self._message
        call: Callable[..., Any] = getattr(self._client, method)
        try:
            answer = call(*arguments)
        except self._rpc.types.Refused as refused:
            raise error_from_layers_refused(refused, self.where)
        except TApplicationException as failure:
            raise RemoteError("{} could not answer {}: {}".format(self.where, method, foreign_words(failure)))
        except TTransportException as failure:
            self.close()
            if failure.type == TTransportException.TIMED_OUT:
                raise ConnectionLost(
                    "{} did not answer {} within {:g} s".format(self.where, method, self._timeout_s)
                )
            raise ConnectionLost("{} closed the connection instead of answering {}".format(self.where, method))
        except Exception as failure:  # Thrift's decoder raises what it likes on bytes that are no Thrift
            self.close()
            raise WireError(
                "{} answers with something that is no bottlekit answer ({}: {})".format(
                    self.where, type(failure).__name__, foreign_words(failure)
                )
            )
        finally:
            if self._wire is not None:
                self.sent_bytes += self._wire.sent_bytes
                self.received_bytes += self._wire.received_bytes
        if self._protocol.number != self._message:
            self.close()
            raise WireError("{} answers number {} as {}".format(self.where, self._message, self._protocol.number))
        return answer
