"""The generated modules of `layers.thrift`, and errors across that wire."""

from typing import Any

from ..errors import BottlekitError, BundleError, PayloadError, RemoteError, ServerBusyError, WireError
from . import Rpc
from .refusals import foreign_words


def load_layers_rpc() -> Rpc:
    """Import the generated modules. Raises WireError on a machine without Apache Thrift."""
    try:
        from .generated.layers import Layers, constants, ttypes
    except ImportError as error:
        raise WireError("client and server need Apache Thrift ({}); type: pip install 'thrift>=0.25'".format(error))
    return Rpc(Layers, ttypes, constants)


def layers_refused_from_error(error: Exception) -> Any:
    """The Refused for an error while answering. What only concerns the server stays in its log."""
    types = load_layers_rpc().types
    code = types.Code
    for kind, number in (
        (PayloadError, code.ARRAYS),
        (BundleError, code.NETWORK),
        (ServerBusyError, code.BUSY),
        (WireError, code.PROTOCOL),
    ):
        if isinstance(error, kind):
            return types.Refused(number, str(error))
    return types.Refused(code.INTERNAL, "the server failed ({}); its log says how".format(type(error).__name__))


def error_from_layers_refused(refused: Any, address: str) -> BottlekitError:
    """The error to raise for a Refused from the server at `address`."""
    code = load_layers_rpc().types.Code
    kinds = {code.NETWORK: BundleError, code.ARRAYS: PayloadError, code.BUSY: ServerBusyError}
    return kinds.get(refused.code, RemoteError)("{} refused: {}".format(address, foreign_words(refused.message)))
