import os
import sys

import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.wire.overhead import framing_overhead_bytes

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import TINY_FLEET, serving


@pytest.mark.parametrize("split", ["rb1", "rb2"])
def test_a_real_client_sends_exactly_that_much_more_than_the_payload(split):
    bundle = Bundle.load(os.path.join(TINY_FLEET, split))
    with serving([bundle]) as server, SplitClient(bundle, *server.address) as client:
        answers = [client.infer_input(image[None]) for image in bundle.golden()["image"]]
    for answer in answers:
        assert answer.framed_bytes == answer.payload_bytes + framing_overhead_bytes(answer.payload_bytes)


def test_a_longer_payload_needs_at_most_a_longer_length():
    overheads = [framing_overhead_bytes(size) for size in (0, 100, 200, 20000, 3000000)]
    assert overheads == sorted(overheads)
    assert overheads[-1] - overheads[0] <= 4
