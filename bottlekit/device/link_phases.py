"""The phases in which a device talks to its server or waits for it, each alone: nothing is computed in them.

    transmit  payload -> an answer    the codec's own bytes as the padding of a ping, which the server throws away
    wait      nothing                 blocked on the open connection for as long as the server works on a payload

They need a server of the bundle and are measured only where one is named: their times and their energy are of this
device, that server and the network between them as it was then.
"""

import contextlib
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .access import token_from_file
from .bundle import Bundle
from .client import SplitClient
from .errors import UsageError
from .phases import Phase, loaded_phase
from .wire.addresses import address_from_text

LINK_PHASES = ("transmit", "wait")

# How many payloads the mean of the server's time is taken over, and how many go before: the first take longer.
_ASKED = 20
_ASKED_BEFORE = 3
# For one payload, connecting again included.
_TIMEOUT_S = 10.0


class LinkAccess(NamedTuple):
    """What a server asks for: the folder of this device's certificate, the name in the server's own, a token."""

    tls_folder: Optional[str] = None
    server_name: Optional[str] = None
    token_file: Optional[str] = None

    def words(self) -> List[str]:
        """The options as an agent takes them; the paths are that machine's."""
        given = zip(("--tls", "--server-name", "--token-file"), self)
        return [word for name, value in given if value is not None for word in (name, value)]

    def checked(self, server: Optional[str]) -> "LinkAccess":
        """Itself; UsageError where it has no meaning without a server, or without a certificate."""
        if server is None and any(value is not None for value in self):
            raise UsageError(
                "--tls, --server-name and --token-file are for a server: give --server HOST:PORT as well"
            )
        if self.server_name is not None and self.tls_folder is None:
            raise UsageError("--server-name is the name in a certificate: give --tls FOLDER as well")
        return self

    def options(self) -> Dict[str, Any]:
        """What SplitClient takes of it. UsageError for a token that cannot be read."""
        return {
            "tls_folder": self.tls_folder,
            "server_name": self.server_name,
            "token": None if self.token_file is None else token_from_file(self.token_file),
        }


# Of a server that asks for nothing.
OPEN = LinkAccess()


class LinkClient(SplitClient):
    """A client that runs no head: it sends payloads that are there, and waits."""

    _asked_at = float("-inf")

    def transmit(self, payload: bytes) -> int:
        """Send a payload as a ping's padding and wait for the answer; how many bytes that sent."""
        self._ask("the payload", len(payload), "ping", payload)
        self._asked_at = time.monotonic()
        return self._connected().sent_bytes

    def server_ms(self, payload: bytes) -> float:
        """How long the server works on a payload as an inference sends it, waiting included, by its own clock."""
        times_ms = self._infer("infer", "tail", payload, 0, {}).times_ms
        return times_ms["queue"] + times_ms["decode"] + times_ms["tail"]

    def wait(self, seconds: float) -> None:
        """Be blocked for so long with nothing sent and nothing coming.

        A server hangs up where it hears nothing for `idle_s`: in half of that one ping goes before the wait, and
        where it did hang up, the wait begins again on another connection.
        """
        silent_s = time.monotonic() - self._asked_at
        if self._wire is None or 2.0 * silent_s > self._idle_s or self._wire.readable_within(seconds):
            self.transmit(b"")
            self._connected().readable_within(seconds)


def link_phases(server: Optional[str], asked: Optional[Sequence[str]] = None) -> List[str]:
    """The phases that a server at HOST:PORT makes possible: none without one.

    UsageError for an address that is none, and where only one of the server and the phases is `asked` for.
    """
    wanted = asked is not None and any(name in LINK_PHASES for name in asked)
    if server is None:
        if wanted:
            raise UsageError("transmit and wait need a server that has the bundle: give --server HOST:PORT as well")
        return []
    address_from_text(server)
    if asked is not None and not wanted:
        raise UsageError("--server is for the phases transmit and wait: ask for one of them, or leave it out")
    return list(LINK_PHASES)


def check_server(bundle: Bundle, server: Optional[str], access: LinkAccess = OPEN) -> None:
    """Say hello to the server, if there is one: nobody waits to learn that it is not there, or lets nobody in.

    Raises ServerUnreachableError; IdentityError; BundleError when it does not serve this bundle; WireError.
    """
    access.checked(server)
    if server is not None:
        with _client(bundle, server, access):
            pass


def _client(bundle: Bundle, server: str, access: LinkAccess) -> LinkClient:
    return LinkClient(bundle, *address_from_text(server), timeout_s=_TIMEOUT_S, **access.options())


@contextlib.contextmanager
def loaded_link_phase(
    bundle: Bundle, name: str, server: Optional[str], access: LinkAccess = OPEN
) -> Iterator[Phase]:
    """Connect and have the server work on the golden payloads; open for the length of the `with` block.

    Its `link` goes into the profile. Raises as `check_server` does, and RemoteError for what the server refuses.
    """
    link_phases(server, [name])
    assert server is not None
    client = _client(bundle, server, access)
    with loaded_phase(bundle, "encode") as encode, client:
        payloads = [encode.run(i) for i in range(encode.samples)]
        taken_ms = [client.server_ms(payloads[i % len(payloads)]) for i in range(_ASKED_BEFORE + _ASKED)]
        server_ms = sum(taken_ms[_ASKED_BEFORE:]) / _ASKED
        sent = [client.transmit(payload) for payload in payloads]
        link = {
            "server": server,
            "tls": access.tls_folder is not None,
            "server_ms": round(server_ms, 6),
            "asked": _ASKED,
            "payload_bytes": sum(len(payload) for payload in payloads) / len(payloads),
            "sent_bytes": sum(sent) / len(sent),
        }

        def nothing_to_compare() -> Dict[str, Any]:
            return {"compared": False, "why_not": "nothing is computed while waiting"}

        if name == "transmit":
            yield Phase(name, len(payloads), lambda i: client.transmit(payloads[i]), encode.compare, link=link)
        else:
            yield Phase(name, 1, lambda i: client.wait(server_ms / 1e3), nothing_to_compare, link=link)
