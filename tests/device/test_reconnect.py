"""A server that goes and comes back, and a network that breaks: bounded waiting, no wrong answer, no lost one."""

import os
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.client import SplitClient

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from breaking_link import Link
from servers import INPUTS, PATIENCE_S, join, serving


def test_a_server_that_is_started_again_is_found_again(fleet, wanted):
    with serving(fleet) as server:
        port = server.address[1]
        client = SplitClient(fleet[1], "127.0.0.1", port, timeout_s=PATIENCE_S).__enter__()
        assert client.infer_input(INPUTS[0]).logits.tobytes() == wanted[1][0].tobytes()
    answers = []
    asking = threading.Thread(target=lambda: answers.extend(client.infer_input(one) for one in INPUTS))
    asking.start()
    time.sleep(0.4)
    assert answers == []
    # Alone, the bundle has another number than before.
    with serving(fleet[1:], port=port):
        join(asking)
        np.testing.assert_array_equal([answer.logits for answer in answers], wanted[1])
        client.__exit__()


def test_a_server_that_comes_back_with_another_export_is_refused(fleet):
    with serving(fleet) as server:
        port = server.address[1]
        client = SplitClient(fleet[0], "127.0.0.1", port, timeout_s=PATIENCE_S).__enter__()
    with serving(fleet[1:], port=port):
        for _ in range(2):
            with pytest.raises(errors.BundleError, match="does not serve tiny-rb1"):
                client.infer_input(INPUTS[0])
        client.__exit__()


@pytest.mark.parametrize("direction", ["up_left", "down_left"])
def test_a_link_that_is_cut_anywhere_in_a_message_costs_time_and_nothing_else(fleet, wanted, direction):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=PATIENCE_S) as client:
            client.infer_input(INPUTS[0])
            for turn, left in enumerate([0, 1, 3, 4, 5, 17, 30, 35]):
                setattr(link, direction, left)
                before = link.connections
                answer = client.infer_input(INPUTS[turn])
                assert answer.logits.tobytes() == wanted[0][turn].tobytes()
                assert link.connections == before + 1


def test_a_link_that_breaks_again_and_again_gives_no_wrong_answer(fleet, wanted):
    dice = np.random.RandomState(1)
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=PATIENCE_S) as client:
            for turn in range(150):
                cutting = threading.Timer(dice.uniform(0, 0.004), link.cut)
                if turn % 3 == 0:
                    cutting.start()
                number = turn % len(INPUTS)
                assert client.infer_input(INPUTS[number]).logits.tobytes() == wanted[0][number].tobytes()
                if turn % 3 == 0:
                    join(cutting)
        assert link.connections > 10


def test_a_connection_that_only_looks_open_costs_its_request_the_timeout_and_the_next_one_nothing(fleet, wanted):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=PATIENCE_S) as client:
            client.infer_input(INPUTS[0])
            link.swallow = True
            client._timeout_s = 0.5
            started = time.monotonic()
            with pytest.raises(errors.WireError, match="did not answer infer within 0.5 s"):
                client.infer_input(INPUTS[1])
            assert 0.49 < time.monotonic() - started < 30
            link.swallow = False
            client._timeout_s = PATIENCE_S
            assert client.infer_input(INPUTS[2]).logits.tobytes() == wanted[0][2].tobytes()
            assert link.connections == 2


def test_an_answer_that_comes_too_late_is_never_taken_for_the_next_ones(fleet, wanted):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address) as client:
            for turn in range(2):
                client._timeout_s = PATIENCE_S
                client.infer_input(INPUTS[turn])
                link.swallow = True
                client._timeout_s = 0.5
                with pytest.raises(errors.WireError):
                    client.infer_input(INPUTS[turn + 1])
                link.swallow = False
                client._timeout_s = PATIENCE_S
                assert client.infer_input(INPUTS[turn + 2]).logits.tobytes() == wanted[0][turn + 2].tobytes()


def test_waiting_for_a_server_that_never_comes_back_ends_in_time(fleet):
    with serving(fleet) as server:
        client = SplitClient(fleet[0], *server.address).__enter__()
    client.load_head()
    client._timeout_s = 1.0
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(errors.ServerUnreachableError):
            client.infer_input(INPUTS[0])
        assert 0.5 < time.monotonic() - started < 30
    client.__exit__()


def test_a_clock_that_jumps_ends_nothing_and_delays_nothing(fleet, wanted, monkeypatch):
    """All waiting is by the monotonic clock; the other one may be set at any time."""
    with serving(fleet) as server, SplitClient(fleet[0], *server.address) as client:
        for turn, now in enumerate([0.0, 4e9, 1e9]):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            time.sleep(0.15)  # the server looks for those that are late ten times a second
            assert client.infer_input(INPUTS[turn]).logits.tobytes() == wanted[0][turn].tobytes()
        assert server.statistics.accepted == 1
