"""The server's side of one conversation: a message in, a message out."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Awaitable, Callable, Dict, NamedTuple, Optional, Set

from .. import __version__
from .access import Access
from .errors import ServerBusyError, WireError
from .journal import Journal
from .lanes import Lanes
from .limits import Rates, ServerLimits
from .service import TAIL, WHOLE
from .statistics import ClientCounters
from .wire import load_rpc
from .wire.answers import answer_from_logits
from .wire.framing import (
    HELLO_FRAME_BYTES,
    REQUEST_CONTAINER_LENGTH,
    REQUEST_OVERHEAD_BYTES,
    Messages,
)
from .wire.refusals import foreign_words, refused_from_error

# Longer messages are taken apart in a thread: without Thrift's C code a hostile one takes long.
_SHORT_BYTES = 1 << 14
_NUMBERS = range(-(1 << 31), 1 << 31)
_REPLY = 2  # Thrift's TMessageType.REPLY


class House:
    """What all conversations of a server have in common; it belongs to the event loop's thread."""

    def __init__(self, limits: ServerLimits, access: Access, journal: Journal, loop: Any, lanes: Lanes) -> None:
        self.rpc = load_rpc()
        self.limits = limits
        self.access = access
        self.journal = journal
        self.loop = loop
        self.lanes = lanes
        self.statistics = lanes.statistics
        self.rates = Rates(limits.requests_per_s, limits.burst_s, loop.time)
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="bottlekit-serve")
        self._retired: Set[Lanes] = set()

    def renew(self, lanes: Lanes) -> None:
        """Have new conversations use another generation of the fleet; those under way keep the one they know."""
        old, self.lanes = self.lanes, lanes
        self._retired.add(old)
        self.statistics.reloads += 1
        self.left(old, 0)

    def drop_the_late(self) -> None:
        """Answer requests whose deadline has passed while they waited."""
        for lanes in [*self._retired, self.lanes]:
            lanes.drop_the_late()

    def longest_frame(self, lanes: Optional[Lanes] = None) -> int:
        """The longest frame of a client that knows this generation, without its length."""
        service = (lanes or self.lanes).service
        return REQUEST_OVERHEAD_BYTES + max(service.largest_payload_bytes, self.limits.image_bytes)

    def left(self, lanes: Lanes, users: int = 1) -> None:
        """So many conversations no longer need a generation; a retired one that nobody needs is closed."""
        lanes.users -= users
        if lanes in self._retired and lanes.users == 0:
            self._retired.discard(lanes)
            self.loop.run_in_executor(self.threads, lanes.close)

    def close(self) -> None:
        """Free everything. Blocks until the work in hand is done."""
        self.threads.shutdown(wait=True)
        for lanes in [*self._retired, self.lanes]:
            lanes.close()


class _Message(NamedTuple):
    """A call: its method, its number, its arguments (None: there is no such method)."""

    method: str
    number: int
    arguments: Any


class Conversation:
    """One connection's answers; its four calls are the service of `bottlekit.thrift`.

    ::

        frame --parse--> call --hello | infer | infer_image | ping--> result --> frame with the call's number

    Every error becomes a Refused, which says why. `frame_bytes` is what the client may send next: little until
    it has said a valid hello.
    """

    def __init__(self, house: House, counters: ClientCounters, peer: str, host: str, certificate: Any) -> None:
        self._house = house
        self._rpc = house.rpc
        self._peer = peer
        self._host = host
        self._certificate = certificate
        self._lanes: Optional[Lanes] = None
        self._deadline_ms: Optional[int] = None
        self._messages = Messages(REQUEST_CONTAINER_LENGTH)
        self.counters = counters
        self._calls: Dict[str, Callable[[Any, float], Awaitable[Any]]] = {
            "hello": self._hello,
            "infer": lambda call, arrived: self._infer(TAIL, call, call.payload, arrived),
            "infer_image": lambda call, arrived: self._infer(WHOLE, call, call.image, arrived),
            "ping": self._ping,
        }

    @property
    def greeted(self) -> bool:
        """Whether the client has said a valid hello."""
        return self._lanes is not None

    @property
    def frame_bytes(self) -> int:
        """The longest frame that is accepted now."""
        return HELLO_FRAME_BYTES if self._lanes is None else self._house.longest_frame(self._lanes)

    def end(self) -> None:
        """The connection is over."""
        if self._lanes is not None:
            self._house.statistics.clients.remove(self.counters)
            self._house.left(self._lanes)
            self._lanes = None

    async def reply(self, frame: bytes, arrived: float) -> bytes:
        """Answer one message, whose last byte arrived then. Raises whatever Thrift makes of a malformed one."""
        if len(frame) <= _SHORT_BYTES:
            message = self._parsed(frame)
        else:
            message = await self._house.loop.run_in_executor(self._house.threads, self._parsed, frame)
        if message.arguments is None:
            return self._unknown(message)
        result = getattr(self._rpc.service, message.method + "_result")()
        try:
            result.success = await self._calls[message.method](message.arguments, arrived)
        except Exception as error:
            result.refused = refused_from_error(error)
            self._tell(message.method, result.refused.code, error)
        return self._messages.message(message.method, _REPLY, message.number, result)

    def _parsed(self, frame: bytes) -> _Message:
        protocol = self._messages.protocol_from_message(frame)
        method, _, number = protocol.readMessageBegin()
        if number not in _NUMBERS:  # Thrift reads longer ones, and writes them as others
            raise WireError("a message with a number of more than 32 bits")
        if method not in self._calls:  # what it would have been called with is not even looked at
            return _Message(method, number, None)
        arguments = getattr(self._rpc.service, method + "_args")()
        arguments.read(protocol)
        protocol.readMessageEnd()
        return _Message(method, number, arguments)

    def _unknown(self, message: _Message) -> bytes:
        from thrift.Thrift import TApplicationException, TMessageType

        words = "Unknown function {}".format(foreign_words(message.method)[:32])
        failure = TApplicationException(TApplicationException.UNKNOWN_METHOD, words)
        return self._messages.message(message.method, TMessageType.EXCEPTION, message.number, failure)

    def _tell(self, method: str, code: int, error: Exception) -> None:
        house = self._house
        name = self._rpc.types.Code._VALUES_TO_NAMES[code]
        house.statistics.count_refused(name)
        self.counters.refused += 1
        who = self.counters.name or self._peer
        if code == self._rpc.types.Code.INTERNAL:
            words = "a request failed: {}: {}".format(type(error).__name__, error)
            house.journal.write("failed", words, client=who, method=method)
        else:
            house.journal.note("refused", str(error), client=who, method=method, code=name)

    async def _hello(self, call: Any, arrived: float) -> Any:
        """Check the client's protocol version and who it is, and tell it what there is."""
        spoken = self._rpc.constants.PROTOCOL
        if call.protocol != spoken:
            raise WireError(
                "this server (bottlekit {}) speaks protocol {}, the client (bottlekit {}) {}; "
                "install the same version on both sides".format(
                    __version__, spoken, foreign_words(call.bottlekit)[:32], call.protocol
                )
            )
        house = self._house
        name = house.access.name(self._certificate, call.token, self._host)
        if self._lanes is None:
            self._take_place(name)
        self._deadline_ms = call.deadline_ms
        types = self._rpc.types
        assert self._lanes is not None
        bundles = [
            types.BundleInfo(
                name=bundle.name,
                split=bundle.split["name"],
                sha256=bundle.sha256,
                classes=len(bundle.classes),
                dynamic_batch=bundle.dynamic_batch,
                baseline="baseline" in bundle.parts,
            )
            for bundle in self._lanes.service.bundles
        ]
        limits = types.Limits(
            frame_bytes=house.longest_frame(self._lanes),
            connections=house.limits.connections,
            idle_s=int(house.limits.idle_s),
        )
        return types.Welcome(spoken, __version__, bundles, limits)

    def _take_place(self, name: str) -> None:
        house, clients = self._house, self._house.statistics.clients
        if len(clients) >= house.limits.connections:
            raise ServerBusyError("{} clients are connected, that is the limit".format(house.limits.connections))
        most = house.limits.connections_per_client
        if most and sum(client.name == name for client in clients) >= most:
            raise ServerBusyError("{} is connected {} times, that is the limit".format(name, most))
        self.counters.name = name
        clients.append(self.counters)
        self._lanes = house.lanes
        self._lanes.users += 1
        house.journal.note("connected", "{} at {}".format(name, self._peer), client=name, peer=self._peer)

    async def _infer(self, part: str, call: Any, data: Any, arrived: float) -> Any:
        lanes = self._greeted_and_within_its_rate()
        if call.bundle is None or data is None or call.top_k is None:
            raise WireError("the request lacks a field; it needs a bundle's number, bytes and top_k")
        if call.top_k < 0:
            raise WireError("top_k must be 0 (all logits) or more, not {}".format(call.top_k))
        deadline_ms = call.deadline_ms if call.deadline_ms is not None else self._deadline_ms
        deadline = float("inf") if deadline_ms is None else arrived + deadline_ms / 1e3
        self.counters.split = lanes.split(part, call.bundle)
        served, queue_us = await lanes.run(part, call.bundle, data, arrived, deadline)
        answer = answer_from_logits(
            served.logits,
            call.top_k,
            served.decode_us,
            served.tail_us,
            queue_us,
            served.batch if served.batch > 1 else None,
        )
        latency_ms = (self._house.loop.time() - arrived) * 1e3
        self._house.statistics.count_answer(self.counters.split, latency_ms, queue_us, served.decode_us)
        self.counters.answered += 1
        return answer

    async def _ping(self, call: Any, arrived: float) -> Any:
        """How busy the server is, or BUSY when it could compute nothing; the padding is thrown away."""
        self._greeted_and_within_its_rate().check()
        now = self._house.statistics
        return self._rpc.types.Load(now.connections, now.in_flight - 1, now.answered, now.queued)

    def _greeted_and_within_its_rate(self) -> Lanes:
        if self._lanes is None:
            raise WireError("say hello first: the first call on a connection must be hello")
        if not self._house.rates.take(self.counters.name):
            raise ServerBusyError(
                "{} asks more than {:g} times a second, that is the limit".format(
                    self.counters.name, self._house.limits.requests_per_s
                )
            )
        return self._lanes
