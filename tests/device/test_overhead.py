import os
import threading

import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.server import server_from_fleet
from bottlekit.device.wire.overhead import framing_overhead_bytes

FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")


@pytest.mark.parametrize("split", ["rb1", "rb2"])
def test_a_real_client_sends_exactly_that_much_more_than_the_payload(split):
    bundle = Bundle.load(os.path.join(FLEET, split))
    with server_from_fleet([bundle], port=0) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            with SplitClient(bundle, *server.address) as client:
                answers = [client.infer_input(image[None]) for image in bundle.golden()["image"]]
        finally:
            server.stop()
            thread.join()
    for answer in answers:
        assert answer.framed_bytes == answer.payload_bytes + framing_overhead_bytes(answer.payload_bytes)


def test_a_longer_payload_needs_at_most_a_longer_length():
    overheads = [framing_overhead_bytes(size) for size in (0, 100, 200, 20000, 3000000)]
    assert overheads == sorted(overheads)
    assert overheads[-1] - overheads[0] <= 4
