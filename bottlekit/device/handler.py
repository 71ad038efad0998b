"""The server's side of one conversation: what the generated Processor calls for every message."""

from typing import Any, Callable

from .. import __version__
from .errors import WireError
from .service import Served, TailService
from .wire import load_rpc
from .wire.answers import answer_from_logits
from .wire.framing import HELLO_FRAME_BYTES
from .wire.refusals import foreign_words, refused_from_error


class Statistics:
    """How busy the server is. Written by the event loop only, read from anywhere."""

    def __init__(self) -> None:
        self.connections = 0
        self.in_flight = 0
        self.answered = 0


class Conversation:
    """One connection's answers; its four public calls are the service of `bottlekit.thrift`.

    Every error becomes a Refused: the Processor would answer any other exception with no reason at all.
    `frame_bytes` is what the client may send next: little until it has said a valid hello.
    """

    def __init__(
        self, service: TailService, limits: Any, statistics: Statistics, say: Callable[[str], None]
    ) -> None:
        self._rpc = load_rpc()
        self._service = service
        self._limits = limits
        self._statistics = statistics
        self._say = say
        self.greeted = False

    @property
    def frame_bytes(self) -> int:
        """The longest frame that is accepted now."""
        return int(self._limits.frame_bytes) if self.greeted else HELLO_FRAME_BYTES

    def hello(self, protocol: Any, bottlekit: Any) -> Any:
        """Check the client's protocol version and tell it what there is."""
        return self._answer(lambda: self._hello(protocol, bottlekit))

    def infer(self, bundle: Any, payload: Any, top_k: Any) -> Any:
        """Decode the payload, run the tail."""
        return self._answer(lambda: self._infer(self._service.run_tail, bundle, payload, top_k))

    def infer_image(self, bundle: Any, image: Any, top_k: Any) -> Any:
        """Decode the image file, run the whole network."""
        return self._answer(lambda: self._infer(self._service.run_whole, bundle, image, top_k))

    def ping(self, padding: Any) -> Any:
        """How busy the server is; the padding is thrown away."""
        return self._answer(self._load)

    def _answer(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            refused = refused_from_error(error)
            if refused.code == self._rpc.types.Code.INTERNAL:
                self._say("a request failed: {}: {}".format(type(error).__name__, error))
            raise refused

    def _hello(self, protocol: Any, version: Any) -> Any:
        spoken = self._rpc.constants.PROTOCOL
        if protocol != spoken:
            raise WireError(
                "this server (bottlekit {}) speaks protocol {}, the client (bottlekit {}) {}; "
                "install the same version on both sides".format(
                    __version__, spoken, foreign_words(version)[:32], protocol
                )
            )
        types = self._rpc.types
        bundles = [
            types.BundleInfo(
                name=bundle.name,
                split=bundle.split["name"],
                sha256=bundle.sha256,
                classes=len(bundle.classes),
                dynamic_batch=bundle.dynamic_batch,
                baseline="baseline" in bundle.parts,
            )
            for bundle in self._service.bundles
        ]
        self.greeted = True
        return types.Welcome(spoken, __version__, bundles, self._limits)

    def _infer(self, run: Callable[[int, bytes], Served], number: Any, data: Any, top_k: Any) -> Any:
        self._check_greeted()
        if number is None or data is None or top_k is None:
            raise WireError("the request lacks a field; it needs a bundle's number, bytes and top_k")
        if top_k < 0:
            raise WireError("top_k must be 0 (all logits) or more, not {}".format(top_k))
        served = run(number, data)
        return answer_from_logits(served.logits, top_k, served.decode_us, served.tail_us)

    def _load(self) -> Any:
        self._check_greeted()
        now = self._statistics
        return self._rpc.types.Load(now.connections, now.in_flight - 1, now.answered)

    def _check_greeted(self) -> None:
        if not self.greeted:
            raise WireError("say hello first: the first call on a connection must be hello")
