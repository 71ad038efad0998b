"""The wire: generated code, frames, answers and refusals, without a server."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bottlekit.device
from bottlekit.device import errors
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.answers import answer_from_logits, logits_from_answer
from bottlekit.device.wire.framing import (
    FRAME_LENGTH,
    Messages,
    MeteredSocket,
    compact_protocol,
    frame_from_message,
)
from bottlekit.device.wire.refusals import error_from_refused, refused_from_error

WIRE = os.path.join(os.path.dirname(bottlekit.device.__file__), "wire")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(bottlekit.device.__file__)))


def run_python(code):
    environment = dict(os.environ, PYTHONPATH=ROOT)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip()


def files_below(folder):
    found = {}
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.relpath(os.path.join(path, name), folder)] = file.read()
    return found


def test_the_committed_code_is_what_the_compiler_makes_of_the_idl(tmp_path):
    if shutil.which("thrift") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs Apache Thrift's compiler: apt-get install thrift-compiler")
        pytest.skip("needs Apache Thrift's compiler: apt-get install thrift-compiler")
    subprocess.check_call(["sh", os.path.join(WIRE, "generate.sh"), str(tmp_path)], timeout=300)
    assert files_below(str(tmp_path)) == files_below(os.path.join(WIRE, "generated"))


def test_the_generated_code_imports_without_a_warning():
    assert run_python("from bottlekit.device.wire import load_rpc; print(load_rpc().constants.PROTOCOL)") == "1"


def test_thrift_and_the_other_packages_are_imported_only_when_used():
    code = (
        "import sys, bottlekit.device.client, bottlekit.device.server, bottlekit.device.pipeline;"
        "print([name for name in ('thrift', 'PIL', 'onnxruntime', 'torch', 'tensorrt') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_a_machine_without_thrift_is_told_what_to_install():
    code = (
        "import sys; sys.modules['thrift'] = None\n"
        "from bottlekit.device.wire import load_rpc\n"
        "from bottlekit.device.errors import WireError\n"
        "try: load_rpc()\n"
        "except WireError as error: print(error)\n"
    )
    assert "pip install 'thrift>=0.25'" in run_python(code)


# ---- answers


def test_all_logits_travel_in_class_order_bit_for_bit():
    logits = np.array([0.1, -3.25, np.float32(1) / 3, 7, 7], np.float32)
    answer = answer_from_logits(logits, 0, 12, 34)
    assert answer.classes is None
    assert (answer.decode_us, answer.tail_us) == (12, 34)
    classes, received = logits_from_answer(answer, 5)
    assert classes.tolist() == [0, 1, 2, 3, 4]
    assert received.dtype == np.float32
    assert received.tobytes() == logits.tobytes()


@pytest.mark.parametrize("top_k", [1, 2, 5, 9])
def test_the_best_logits_come_first_and_ties_by_class_number(top_k):
    logits = np.array([0.5, 7, -1, 7, 2], np.float32)
    classes, received = logits_from_answer(answer_from_logits(logits, top_k, 0, 0), 5)
    assert classes.tolist() == [1, 3, 4, 0, 2][:top_k]
    assert received.tolist() == [7, 7, 2, 0.5, -1][:top_k]


def test_class_numbers_use_all_of_their_two_bytes():
    logits = np.zeros(65535, np.float32)
    logits[65534] = 1
    assert logits_from_answer(answer_from_logits(logits, 1, 0, 0), 65535)[0].tolist() == [65534]


@pytest.mark.parametrize(
    ("logits", "classes", "said"),
    [
        (None, None, "0 bytes"),
        (b"", None, "0 bytes"),
        (b"12345", None, "5 bytes"),
        (b"1234" * 4, None, "4 logits, the bundle 5 classes"),
        (b"1234" * 6, None, "6 logits, the bundle 5 classes"),
        (b"1234", b"", "0 bytes of class numbers"),
        (b"1234", b"\0\0\0\0", "4 bytes of class numbers"),
        (b"1234", b"\5\0", "names class 5"),
    ],
)
def test_an_answer_that_does_not_fit_the_bundle_is_refused(logits, classes, said):
    answer = load_rpc().types.Answer(logits=logits, classes=classes, decode_us=0, tail_us=0)
    with pytest.raises(errors.WireError, match=said):
        logits_from_answer(answer, 5)


# ---- refusals


@pytest.mark.parametrize(
    ("raised", "arrives_as"),
    [
        (errors.PayloadError("too short"), errors.PayloadError),
        (errors.DataError("no image"), errors.DataError),
        (errors.BundleError("no number 7"), errors.BundleError),
        (errors.WireError("hello first"), errors.RemoteError),
    ],
)
def test_an_error_arrives_under_its_name_with_its_words(raised, arrives_as):
    error = error_from_refused(refused_from_error(raised), "host:1")
    assert type(error) is arrives_as
    assert str(raised) in str(error)
    assert "host:1" in str(error)


@pytest.mark.parametrize("raised", [errors.EngineError("/secret/path"), MemoryError("/secret/path"), KeyError("x")])
def test_the_servers_own_failures_stay_in_its_log(raised):
    error = error_from_refused(refused_from_error(raised), "host:1")
    assert type(error) is errors.RemoteError
    assert "secret" not in str(error)
    assert type(raised).__name__ in str(error)


def test_a_refusal_of_an_unknown_code_or_without_words_is_still_an_error():
    types = load_rpc().types
    assert isinstance(error_from_refused(types.Refused(99, "what?"), "host:1"), errors.RemoteError)
    assert isinstance(error_from_refused(types.Refused(None, None), "host:1"), errors.RemoteError)


def test_a_hostile_refusal_does_not_flood_the_terminal():
    types = load_rpc().types
    message = str(error_from_refused(types.Refused(5, "a\nb\x1b " * 10000), "host:1"))
    assert len(message) < 600
    assert message.isprintable()


# ---- framing


def test_a_frame_is_four_bytes_of_length_and_the_message():
    assert frame_from_message(b"abc") == b"\0\0\0\3abc"


def test_a_request_costs_twenty_bytes_over_a_short_payload_and_one_more_over_a_long_one():
    from thrift.transport.TTransport import TMemoryBuffer

    for payload_bytes, overhead in ((45, 20), (127, 20), (128, 21), (16383, 21)):
        buffer = TMemoryBuffer()
        client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
        client.send_infer(3, bytes(payload_bytes), 5, None)
        assert len(frame_from_message(buffer.getvalue())) == payload_bytes + overhead


@pytest.fixture
def connection():
    """A metered client socket with half a second of patience, and the plain socket at its other end."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)
    near = socket.create_connection(listening.getsockname(), timeout=60)
    far, _ = listening.accept()
    metered = MeteredSocket(near, 0.5)
    yield metered, far
    metered.close()
    far.close()
    listening.close()


def test_a_metered_socket_counts_and_does_not_wait_for_more_to_send(connection):
    metered, far = connection
    metered.begin_request()
    metered.write(b"x" * 300)
    far.sendall(b"y" * 70)
    assert metered.readAll(30) + metered.readAll(40) == b"y" * 70
    assert (metered.sent_bytes, metered.received_bytes) == (300, 70)
    metered.begin_request()
    assert (metered.sent_bytes, metered.received_bytes) == (0, 0)
    assert metered._socket.handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_metered_socket_gives_up_on_one_that_drips(connection):
    from thrift.transport.TTransport import TTransportException

    metered, far = connection
    done = threading.Event()

    def drip():
        while not done.wait(0.05):
            try:
                far.sendall(b"y")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        started = time.monotonic()
        metered.begin_request()
        with pytest.raises(TTransportException) as caught:
            metered.readAll(1000)
        assert caught.value.type == TTransportException.TIMED_OUT
        assert 0.4 < time.monotonic() - started < 30
    finally:
        done.set()
        dripping.join()


def test_a_metered_socket_gives_up_on_one_that_hardly_reads(connection):
    from thrift.transport.TTransport import TTransportException

    metered, far = connection
    done = threading.Event()

    def sip():
        while not done.wait(0.05):
            far.recv(1000)  # all of it would take an hour

    sipping = threading.Thread(target=sip)
    sipping.start()
    try:
        started = time.monotonic()
        metered.begin_request()
        with pytest.raises(TTransportException) as caught:
            metered.write(bytes(50000000))
        assert caught.value.type == TTransportException.TIMED_OUT
        assert 0.4 < time.monotonic() - started < 30
    finally:
        done.set()
        sipping.join()


def send_for_ever(metered):
    while True:
        metered.write(bytes(100000))


def test_a_metered_socket_notices_that_nobody_takes_what_it_sends(connection):
    from thrift.transport.TTransport import TTransportException

    metered, far = connection
    far.close()
    metered.begin_request()
    with pytest.raises(TTransportException) as caught:
        send_for_ever(metered)
    assert caught.value.type == TTransportException.END_OF_FILE


def test_a_metered_socket_notices_the_end(connection):
    from thrift.transport.TTransport import TTransportException

    metered, far = connection
    far.sendall(b"abc")
    far.close()
    metered.begin_request()
    with pytest.raises(TTransportException) as caught:
        metered.readAll(4)
    assert caught.value.type == TTransportException.END_OF_FILE
    metered.close()
    metered.close()


def test_a_metered_socket_keeps_what_came_with_a_frame_for_the_next(connection):
    metered, far = connection
    assert not metered.has_ended()
    far.sendall(b"abcdefg")
    metered.begin_request()
    assert metered.readAll(3) == b"abc"
    # Nothing is left in the system's own buffer, and yet there is something that nobody asked for.
    assert not metered.readable_within(0.0)
    assert metered.has_ended()
    assert metered.readAll(4) == b"defg"
    assert metered.received_bytes == 7
    assert not metered.has_ended()


def test_messages_of_one_connection_are_those_of_a_protocol_of_their_own_each():
    from thrift.transport.TTransport import TMemoryBuffer

    rpc = load_rpc()
    messages = Messages(16)
    for number, logits in enumerate((b"\0" * 8, b"", b"\1" * 4000)):
        answer = rpc.types.Answer(logits=logits, decode_us=1, tail_us=number)
        result = rpc.service.infer_result(success=answer)
        buffer = TMemoryBuffer()
        alone = compact_protocol(buffer, 0, 16)
        alone.writeMessageBegin("infer", 2, number)
        result.write(alone)
        alone.writeMessageEnd()
        message = messages.message("infer", 2, number, result)
        assert message == buffer.getvalue()
        protocol = messages.protocol_from_message(message)
        assert protocol.readMessageBegin() == ("infer", 2, number)
        back = rpc.service.infer_result()
        back.read(protocol)
        protocol.readMessageEnd()
        assert back == result


# ---- limits of the decoder


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def call(name):
    return b"\x82\x21\x00" + varint(len(name)) + name


HOSTILE = {
    "three million list items": call(b"ping") + b"\x99\xf3" + varint(3000000) + b"\x01" * 3000000 + b"\x00",
    "a list where bytes belong": call(b"ping") + b"\x19\xf3" + varint(3000000) + b"\x01" * 300,
    "a map of millions": call(b"ping") + b"\x9b" + varint(3000000) + b"\x33" + b"\x01" * 300,
    "structs in structs": call(b"ping") + b"\x9c" + b"\x1c" * 100000,
    "lists in lists": call(b"ping") + b"\x99" + b"\x19" * 100000,
    "two gigabytes of bytes": call(b"ping") + b"\x18" + varint(2**31 - 1) + b"aa",
    "bytes of negative length": call(b"ping") + b"\x18\xff\xff\xff\xff\x0f" + b"aa",
    "an endless number": call(b"ping") + b"\x18" + b"\xff" * 20,
    "a number of too many bits": call(b"infer") + b"\x14" + b"\xff" * 20 + b"\x00",
    "a method name of two gigabytes": b"\x82\x21\x00" + varint(2**31 - 1) + b"a",
    "a method name that is no text": call(b"\xff\xfe") + b"\x00",
    "a type that does not exist": call(b"ping") + b"\x1e\x00",
    "a message cut short": call(b"infer")[:-2],
    "nothing behind the name": call(b"infer"),
    "another protocol": b"\x80\x01\x00\x01\x00\x00\x00\x04ping",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "one byte": b"\x82",
}


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_the_decoder_refuses_hostile_messages_at_once(what, accelerated):
    from thrift.protocol.TCompactProtocol import TCompactProtocol
    from thrift.transport.TTransport import TMemoryBuffer

    class Handler:
        def ping(self, padding):
            raise AssertionError("a hostile message reached the handler")

        infer = hello = infer_image = ping

    message = HOSTILE[what]
    request = compact_protocol(TMemoryBuffer(message), 4096, 16)
    if not accelerated:
        request = TCompactProtocol(request.trans, 4096, 16)
    reply = TMemoryBuffer()
    started = time.process_time()
    with pytest.raises(Exception):  # noqa: B017 - Thrift raises what it likes; the server catches everything
        load_rpc().service.Processor(Handler()).process(request, compact_protocol(reply, 4096, 16))
    assert time.process_time() - started < 5
    assert reply.getvalue() == b""


def test_frame_lengths_are_signed_so_that_a_negative_one_is_seen():
    assert FRAME_LENGTH.unpack(b"\xff\xff\xff\xff") == (-1,)
