"""Conversations without a socket: whatever comes in, an answer with the request's number or an error comes out."""

import asyncio
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlekit.device.access import Access
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.errors import WireError
from bottlekit.device.handler import Conversation, House
from bottlekit.device.journal import Journal
from bottlekit.device.lanes import Lanes
from bottlekit.device.limits import ServerLimits
from bottlekit.device.service import TailService, runner_from_onnx
from bottlekit.device.statistics import ClientCounters, Statistics
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.framing import compact_protocol

TINY_FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")


@pytest.fixture(scope="module")
def house():
    loop = asyncio.new_event_loop()
    service = TailService(fleet_from_path(TINY_FLEET), runner_from_onnx(1), 4).__enter__()
    lanes = Lanes(service, ServerLimits(), Statistics(), loop)
    made = House(ServerLimits(), Access(), Journal(), loop, lanes)
    yield made
    made.close()
    loop.close()


def message(method, number, *arguments):
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
    client._seqid = number
    getattr(client, "send_" + method)(*arguments)
    return buffer.getvalue()


def header(frame):
    """(method, kind, number) of a message."""
    from thrift.transport.TTransport import TMemoryBuffer

    return compact_protocol(TMemoryBuffer(frame), 1 << 20, 4096).readMessageBegin()


def conversation(house, greeted=True):
    made = Conversation(house, ClientCounters("127.0.0.1:1", 0.0), "127.0.0.1:1", "127.0.0.1", None)
    if greeted:
        say(house, made, message("hello", 1, 1, "0", None, None))
        assert made.greeted
    return made


def say(house, talk, frame):
    return house.loop.run_until_complete(talk.reply(frame, house.loop.time()))


def payload(bundle):
    return bundle.codec.encode(np.ones(bundle.feature_shape, np.float32))


def check(house, talk, frame):
    """An answer with the number that was asked with, or an exception; in little time, and nobody left behind."""
    started = time.monotonic()
    try:
        reply = say(house, talk, frame)
    except Exception:
        reply = None
    assert time.monotonic() - started < 30
    assert house.statistics.queued == 0
    if reply is not None:
        assert header(reply)[0] == header(frame)[0] or header(reply)[1] == 3
        assert header(reply)[2] == header(frame)[2]
    return reply


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(house, data, greeted):
    talk = conversation(house, greeted)
    check(house, talk, data)
    talk.end()


def test_a_number_that_could_not_be_answered_with_is_none(house):
    """Thrift reads ten bytes of a number, and would write another one in the answer."""
    good = message("ping", 1, b"")
    assert good[2:3] == b"\x01"
    talk = conversation(house)
    with pytest.raises(WireError, match="more than 32 bits"):
        say(house, talk, good[:2] + b"\xff\xff\xff\xff\xff\x7f" + good[3:])
    talk.end()


@settings(max_examples=300)
@given(st.data())
def test_any_damage_to_a_request(house, data):
    bundles = house.lanes.service.bundles
    number = data.draw(st.integers(-(1 << 31), (1 << 31) - 1))
    frame = bytearray(
        data.draw(
            st.sampled_from(
                [
                    message("hello", number, 1, "0.1.0", b"x" * 20, 500),
                    message("infer", number, 0, payload(bundles[0]), 3, 1000),
                    message("infer", number, 1, payload(bundles[1]), 0, None),
                    message("infer_image", number, 0, b"\xff\xd8\xff" + b"x" * 40, 0, None),
                    message("ping", number, b"x" * 30),
                ]
            )
        )
    )
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(frame) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if kind == "change":
            frame[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del frame[max(place, 1) :]
        else:
            frame[place:place] = data.draw(st.binary(max_size=8))
    talk = conversation(house)
    check(house, talk, bytes(frame))
    assert header(say(house, talk, message("ping", 5, b"")))[2] == 5
    talk.end()


@settings(max_examples=100)
@given(
    st.integers(-(1 << 15), (1 << 15) - 1),
    st.integers(-(1 << 15), (1 << 15) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
def test_any_numbers_in_a_request(house, bundle, top_k, deadline_ms):
    talk = conversation(house)
    data = payload(house.lanes.service.bundles[0])
    assert check(house, talk, message("infer", 7, bundle, data, top_k, deadline_ms)) is not None
    talk.end()


@pytest.mark.parametrize("size", [100, 1 << 14, 1 << 16, 1 << 20])
def test_deep_and_wide_messages_end_soon(house, size):
    """Structs in structs, and fields without end: the larger ones are taken apart beside the event loop."""
    start = message("ping", 1, b"")[:8]
    assert start.endswith(b"ping")
    for body in (
        b"\x1c" * size,
        b"\x11" * size,
        b"\x19\xf3\xc0\x8d\xb7\x01" + b"\1" * size,
        b"\x15\x02" * (size // 2),
    ):
        talk = conversation(house)
        check(house, talk, start + body)
        check(house, talk, start[:-1] + b"?" + body)  # a method that there is not
        talk.end()


def test_a_conversation_that_ends_leaves_nothing(house):
    before = (house.lanes.users, len(house.statistics.clients))
    talk = conversation(house)
    assert (house.lanes.users, len(house.statistics.clients)) == (before[0] + 1, before[1] + 1)
    talk.end()
    talk.end()
    assert (house.lanes.users, len(house.statistics.clients)) == before
