"""Errors across the wire: what the server raises, the client raises again under the same name."""

from typing import Any

from ..errors import (
    BottlekitError,
    BundleError,
    DataError,
    DeadlineError,
    IdentityError,
    PayloadError,
    RemoteError,
    ServerBusyError,
    WireError,
)
from . import load_rpc


def refused_from_error(error: Exception) -> Any:
    """The Refused for an error while answering. What only concerns the server stays in its log."""
    types = load_rpc().types
    code = types.Code
    for kind, number in (
        (PayloadError, code.PAYLOAD),
        (DataError, code.IMAGE),
        (BundleError, code.BUNDLE),
        (ServerBusyError, code.BUSY),
        (DeadlineError, code.DEADLINE),
        (IdentityError, code.IDENTITY),
        (WireError, code.PROTOCOL),
    ):
        if isinstance(error, kind):
            return types.Refused(number, str(error))
    return types.Refused(code.INTERNAL, "the server failed ({}); its log says how".format(type(error).__name__))


def error_from_refused(refused: Any, address: str) -> BottlekitError:
    """The error to raise for a Refused from the server at `address`."""
    code = load_rpc().types.Code
    kinds = {
        code.BUNDLE: BundleError,
        code.PAYLOAD: PayloadError,
        code.IMAGE: DataError,
        code.BUSY: ServerBusyError,
        code.DEADLINE: DeadlineError,
        code.IDENTITY: IdentityError,
    }
    return kinds.get(refused.code, RemoteError)("{} refused: {}".format(address, foreign_words(refused.message)))


def foreign_words(text: object) -> str:
    """What the other end said, fit for a terminal: one line, not too long, no control characters."""
    line = " ".join(str(text)[:2000].split())[:500]
    return "".join(character if character.isprintable() else "?" for character in line)
