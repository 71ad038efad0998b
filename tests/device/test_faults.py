"""What breaks around a server while it is used: processes, networks, clocks, disks. No answer is wrong or lost."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.adaptive.link import FleetLink
from bottlekit.device.adaptive.traffic import Traffic
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.limits import ServerLimits
from bottlekit.device.ort_runner import OnnxRuntimeRunner

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from breaking_link import Link
from raw_client import frame, raw_connection, wait_for_the_end
from servers import INPUTS, PATIENCE_S, TINY_FLEET, join, server_process, serving, wait_until

PATIENT = ServerLimits(hello_s=PATIENCE_S, idle_s=PATIENCE_S, frame_s=PATIENCE_S, drain_s=PATIENCE_S)


def is_answer(logits, wanted, number):
    """Whether these logits are those of that input, within the rounding of a batch, and no other's."""
    distances = np.abs(wanted - logits).max(axis=1)
    return distances[number] < 1e-5 and int(np.argmin(distances)) == number


class Asking(threading.Thread):
    """A client that asks until it is told to stop; keeps what was wrong, and counts what was right."""

    def __init__(self, bundle, wanted, address):
        super().__init__()
        self._bundle, self._wanted, self._address = bundle, wanted, address
        self.stop = threading.Event()
        self.answered = 0
        self.failure = None

    def run(self):
        try:
            with SplitClient(self._bundle, *self._address, timeout_s=PATIENCE_S) as client:
                while not self.stop.is_set():
                    number = self.answered % len(INPUTS)
                    assert is_answer(client.infer_input(INPUTS[number]).logits, self._wanted, number)
                    self.answered += 1
        except Exception as error:
            self.failure = error


@contextlib.contextmanager
def asking(fleet, wanted, address, count):
    """So many clients with mixed splits; none may have failed in the end."""
    clients = [Asking(fleet[number % 2], wanted[number % 2], address) for number in range(count)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop.set()
        join(*clients)
    assert [client.failure for client in clients] == [None] * count


def everybody_goes_on(clients):
    """Wait until each of them got two more answers: one may have been under way."""
    before = [client.answered for client in clients]
    wait_until(
        lambda: all(one.failure is not None or one.answered > then + 1 for one, then in zip(clients, before)),
        "an answer to each",
    )


# ---- processes


@pytest.mark.slow
def test_a_server_that_is_killed_under_load_and_started_again_costs_nobody_an_answer(fleet, wanted):
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(server_process())
        clients = stack.enter_context(asking(fleet, wanted, ("127.0.0.1", port), 6))
        for _ in range(2):
            everybody_goes_on(clients)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process, _ = stack.enter_context(server_process(port))
        everybody_goes_on(clients)
        # The clients end before the servers do: what was entered last is left first.
        for client in clients:
            client.stop.set()
        join(*clients)


# ---- networks


@pytest.mark.parametrize("when", ["idle", "in the middle of a request"])
def test_a_half_open_connection_gives_its_place_back(fleet, wanted, when):
    """The client's network went without a word: nothing comes any more, and no end either."""
    limits = PATIENT._replace(connections=1, idle_s=1.0, frame_s=1.0)
    with serving(fleet, limits=limits) as server, Link(server.address) as link:
        with raw_connection(link) as lost:
            if when != "idle":
                lost.sendall(frame("ping", b"x" * 100)[:50])
            link.swallow = True
            lost.setblocking(False)

            def there_is_room():
                with contextlib.suppress(errors.WireError):
                    with SplitClient(fleet[0], *server.address, timeout_s=PATIENCE_S) as other:
                        return is_answer(other.infer_input(INPUTS[0]).logits, wanted[0], 0)

            wait_until(there_is_room, "a free place")
            with pytest.raises(BlockingIOError):  # the lost one never hears of it
                lost.recv(1)


@pytest.mark.slow
def test_a_client_whose_server_vanished_finds_it_out_and_connects_again(fleet, wanted):
    """Half open the other way round: the server is another one now, and knows nothing of the connection."""
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(server_process())
        link = stack.enter_context(FleetLink(fleet, "127.0.0.1", port, PATIENCE_S, Traffic()))
        head = stack.enter_context(OnnxRuntimeRunner(fleet[0].onnx_path("head"), threads=1, spin=False))
        answer, connect_ms = link.infer_with(fleet[0], head, INPUTS[0], PATIENCE_S)
        assert connect_ms > 0
        assert is_answer(answer.logits, wanted[0], 0)
        process.kill()
        process.wait()
        stack.enter_context(server_process(port))
        answer, connect_ms = link.infer_with(fleet[0], head, INPUTS[1], PATIENCE_S)
        assert connect_ms > 0
        assert is_answer(answer.logits, wanted[0], 1)


@pytest.mark.parametrize("direction", ["up_left", "down_left"])
def test_links_that_are_cut_in_mid_frame_under_load_cost_nobody_an_answer(fleet, wanted, direction):
    with serving(fleet, limits=PATIENT) as server, Link(server.address) as link:
        with asking(fleet, wanted, link.address, 4) as clients:
            everybody_goes_on(clients)
            for left in (1, 3, 7, 20, 33):
                setattr(link, direction, left)
                wait_until(lambda: getattr(link, direction) == float("inf"), "the cut")
                everybody_goes_on(clients)
        assert link.connections >= 4 + 5
        assert server.statistics.refused == {}


# ---- clocks


def test_a_clock_that_is_set_while_many_ask_changes_nothing(fleet, wanted, monkeypatch):
    """Deadlines, idle times, rates and times in the statistics are of the clock that only goes forward."""
    limits = PATIENT._replace(requests_per_s=1e6, connects_per_s=1e6)
    with serving(fleet, limits=limits, http=("127.0.0.1", 0)) as server:
        with asking(fleet, wanted, server.address, 3) as clients:
            everybody_goes_on(clients)
            before = server.statistics.snapshot()
            for now in (0.0, 4e9, -1e9, 1e9):
                monkeypatch.setattr(time, "time", lambda now=now: now)
                everybody_goes_on(clients)
                after = server.statistics.snapshot()
                assert before["uptime_s"] <= after["uptime_s"] < before["uptime_s"] + 1e4
                assert [0 <= one["connected_s"] <= after["uptime_s"] for one in after["clients"]] == [True] * 3
                before = after
        assert server.statistics.accepted == 3
        assert server.statistics.refused == {}


def test_who_makes_room_is_who_is_silent_longest_whatever_the_clock_says(fleet, monkeypatch):
    with serving(fleet, limits=PATIENT._replace(connections=1)) as server, contextlib.ExitStack() as stack:
        silent = []
        for number in range(1 + 64):
            monkeypatch.setattr(time, "time", lambda now=1e9 - number: now)  # it runs backwards
            silent.append(stack.enter_context(raw_connection(server, hello=False)))
            wait_until(lambda number=number: server.statistics.accepted == number + 1, "the connection")
        stack.enter_context(raw_connection(server))
        wait_for_the_end(silent[0])
        assert server.statistics.connections == 65


# ---- disks


@pytest.mark.parametrize("what", ["a graph is cut short", "a graph is missing", "the manifest is cut short"])
def test_a_fleet_that_the_full_disk_cut_short_is_not_taken(fleet, wanted, tmp_path, what):
    folder = str(tmp_path / "fleet")
    shutil.copytree(TINY_FLEET, folder)
    said = []
    path = os.path.join(folder, "rb2", "bundle.json" if "manifest" in what else "tail.onnx")
    with serving(fleet_from_path(folder), say=said.append, fleet=lambda: fleet_from_path(folder)) as server:
        with asking(fleet, wanted, server.address, 2) as clients:
            everybody_goes_on(clients)
            if "missing" in what:
                os.remove(path)
            else:
                with open(path, "r+b") as file:
                    file.truncate(os.path.getsize(path) // 2)
            server.reload()
            wait_until(lambda: said, "a word about it")
            assert said[0].startswith("reload failed, everything stays as it was: ")
            everybody_goes_on(clients)
            # New clients get the old fleet too, and a disk with room again another try.
            shutil.copy(os.path.join(TINY_FLEET, "rb2", os.path.basename(path)), path)
            server.reload()
            wait_until(lambda: server.statistics.reloads == 1, "the reload")
        with SplitClient(fleet[1], *server.address) as client:
            assert is_answer(client.infer_input(INPUTS[0]).logits, wanted[1], 0)


def test_whatever_a_reload_stumbles_over_the_next_one_is_tried(fleet):
    said, broken = [], [RuntimeError("out of something")]

    def read():
        if broken:
            raise broken.pop()
        return fleet

    with serving(fleet, say=said.append, fleet=read) as server:
        server.reload()
        wait_until(lambda: said, "a word about it")
        assert said == ["reload failed, everything stays as it was: RuntimeError: out of something"]
        server.reload()
        wait_until(lambda: server.statistics.reloads == 1, "the reload")


def test_a_log_on_a_full_disk_stops_nothing(fleet, wanted):
    """Whatever the server tells is lost; reloads, refusals and the ends of connections happen all the same."""

    def full(_words):
        raise OSError(28, "No space left on device")

    with serving(fleet, limits=PATIENT, say=full, note=full, fleet=lambda: fleet) as server:
        for turn in range(3):
            with SplitClient(fleet[0], *server.address) as client:
                assert is_answer(client.infer_input(INPUTS[0]).logits, wanted[0], 0)
                with pytest.raises(errors.PayloadError):
                    client._infer("infer", "tail", b"no payload", 0, {})
            with raw_connection(server) as rude:
                rude.sendall(b"\x7f\xff\xff\xff")
                wait_for_the_end(rude)
            server.reload()
            wait_until(lambda turn=turn: server.statistics.reloads == turn + 1, "the reload")
        wait_until(lambda: server.statistics.connections == 0, "the end of all connections")
