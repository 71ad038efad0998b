"""What travels between client and server: Apache Thrift, compact protocol, framed.

    client                                                            server
      hello(protocol, version)              ->   is this the same language?
                                            <-   Welcome: bundles (name, split, hash), limits
      infer(number, payload, top_k)         ->   decode, tail
      infer_image(number, image, top_k)     ->   decode the image, whole network (cloud-only)
      ping(padding)                         ->   nothing
                                            <-   Answer | Load | Refused(code, message)

A frame is four bytes of length (big endian) and one Thrift message. Every length is checked before it is
believed, nothing is unpickled. The messages are defined in `bottlekit.thrift`; `generated/` is made from it
by `generate.sh` and committed, so that a device needs no compiler. Thrift is imported where it is used.
"""

import functools
from typing import Any, NamedTuple

from ..errors import WireError


class Rpc(NamedTuple):
    """The generated modules."""

    service: Any
    types: Any
    constants: Any


@functools.lru_cache(maxsize=None)
def load_rpc() -> Rpc:
    """Import the generated modules. Raises WireError on a machine without Apache Thrift."""
    try:
        from .generated.rpc import Bottlekit, constants, ttypes
    except ImportError as error:
        raise WireError("client and server need Apache Thrift ({}); type: pip install 'thrift>=0.25'".format(error))
    return Rpc(Bottlekit, ttypes, constants)
