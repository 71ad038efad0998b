"""What the wire adds to a payload, known without a server: the request is written into memory and counted."""

from typing import Any, Dict, Optional

from ..errors import WireError
from . import load_rpc
from .framing import ANSWER_CONTAINER_LENGTH, ANSWER_FRAME_BYTES, compact_protocol


def framing_overhead_bytes(payload_bytes: int) -> int:
    """The bytes that a client sends beside a payload of this size: frame length, message header, field headers.

    For all logits of one of the first 64 bundles of a fleet; later ones cost a byte more. Raises WireError on a
    machine without Apache Thrift.
    """
    rpc = load_rpc()
    from thrift.transport.TTransport import TFramedTransport, TMemoryBuffer

    sent = TMemoryBuffer()
    framed: Any = TFramedTransport(sent, ANSWER_FRAME_BYTES)
    client = rpc.service.Client(compact_protocol(framed, ANSWER_FRAME_BYTES, ANSWER_CONTAINER_LENGTH))
    client.send_infer(0, bytes(payload_bytes), 0, None)
    return len(sent.getvalue()) - payload_bytes


def framed_bytes(payload_bytes: float) -> Optional[Dict[str, float]]:
    """What is sent for a mean payload, all of it and without the payload; None on a machine without Thrift."""
    try:
        overhead = framing_overhead_bytes(round(payload_bytes))
    except WireError:
        return None
    return {"request": payload_bytes + overhead, "overhead": overhead}
