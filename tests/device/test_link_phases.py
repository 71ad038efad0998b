"""Sending to a server and waiting for it, each alone, with a server in a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from bottlekit.device import agent, agent_verbs
from bottlekit.device.bench import Effort, bench_bundle, bench_phase, checked_phases
from bottlekit.device.bundle import Bundle
from bottlekit.device.children import child_environment
from bottlekit.device.energy_effort import EnergyEffort
from bottlekit.device.energy_phase import PowerRequest, energy_of_phase
from bottlekit.device.errors import (
    BundleError,
    PayloadError,
    ServerUnreachableError,
    UnknownNameError,
    UsageError,
    WireError,
)
from bottlekit.device.link_phases import LINK_PHASES, LinkClient, check_server, link_phases, loaded_link_phase
from bottlekit.device.meters.meter import Meter
from bottlekit.device.stats import summary

FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")
SHORT = Effort(min_samples=12, max_seconds=5.0, warm_up_seconds=0.05)
# Serves the folder given, hangs up on clients that are silent for the seconds given, and ends with its input.
SERVER = """
import sys
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.server import ServerLimits, server_from_fleet
import threading
limits = ServerLimits(idle_s=float(sys.argv[2]))
with server_from_fleet(fleet_from_path(sys.argv[1]), port=0, limits=limits) as server:
    thread = threading.Thread(target=server.run)
    thread.start()
    print(server.address[1], flush=True)
    sys.stdin.read()
    server.stop()
    thread.join()
"""


class Serving:
    """A server process, used as `with Serving(folder) as address:`; it ends with the block or by `end`."""

    def __init__(self, folder, idle_s=300.0):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, folder, str(idle_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
        )

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line.strip(), "the server did not start"
        return "127.0.0.1:{}".format(int(line))

    def __exit__(self, *_exception):
        self.end()

    def end(self):
        if self.process.poll() is None:
            self.process.communicate()


@pytest.fixture(scope="module")
def server():
    with Serving(FLEET) as address:
        yield address


@pytest.fixture
def bundle():
    return Bundle.load(os.path.join(FLEET, "rb1"))


def nobody():
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return "127.0.0.1:{}".format(taken.getsockname()[1])


# What is sent, and how long is waited


def test_the_codecs_own_payloads_are_sent_and_nothing_is_computed_for_them(bundle, server, monkeypatch):
    asked = []
    real = LinkClient._ask

    def noting(client, what, size, method, *arguments):
        asked.append((method, arguments))
        return real(client, what, size, method, *arguments)

    monkeypatch.setattr(LinkClient, "_ask", noting)
    payloads = [bundle.codec.encode(feature) for feature in bundle.golden()["feature"]]
    with loaded_link_phase(bundle, "transmit", server) as phase:
        assert phase.compare()["compared"] is True
        asked.clear()
        for i in range(phase.samples):
            phase.run(i)
    assert asked == [("ping", (payload,)) for payload in payloads]
    mean = sum(len(payload) for payload in payloads) / len(payloads)
    assert phase.link["payload_bytes"] == mean
    # Frame length, message header, the padding's field and its length.
    assert mean + 10 <= phase.link["sent_bytes"] <= mean + 24


def test_waiting_lasts_as_long_as_the_server_works_and_sends_nothing(bundle, server, monkeypatch):
    monkeypatch.setattr(LinkClient, "server_ms", lambda client, payload: 5.0)
    with loaded_link_phase(bundle, "wait", server) as phase:
        assert phase.compare() == {"compared": False, "why_not": "nothing is computed while waiting"}
        sent = []
        monkeypatch.setattr(LinkClient, "transmit", lambda client, payload: sent.append(payload))
        taken_ms, busy = [], time.process_time()
        for _ in range(100):
            begun = time.perf_counter()
            phase.run(0)
            taken_ms.append((time.perf_counter() - begun) * 1e3)
        busy = time.process_time() - busy
    assert phase.link["server_ms"] == 5.0
    assert 4.99 <= min(taken_ms) < 1000.0
    # Half a second went by at least, and this process hardly ran.
    assert (sent, busy < 0.4) == ([], True)


def test_the_servers_time_is_its_own_without_the_network(bundle, server):
    payload = bundle.codec.encode(bundle.golden()["feature"][0])
    host, port = server.split(":")
    with LinkClient(bundle, host, int(port)) as client:
        for _ in range(5):
            begun = time.perf_counter()
            server_ms = client.server_ms(payload)
            assert 0.0 < server_ms < (time.perf_counter() - begun) * 1e3
        with pytest.raises(PayloadError):
            client.server_ms(payload[:-3])


def test_a_server_that_hangs_up_on_the_silent_is_pinged_in_half_of_its_time(bundle, server, monkeypatch):
    host, port = server.split(":")
    with LinkClient(bundle, host, int(port)) as client:
        assert client._idle_s == 300
        client.transmit(b"")
        connection, pinged = client._wire, []
        real = client.transmit
        monkeypatch.setattr(client, "transmit", lambda payload: pinged.append(payload) or real(payload))
        for more_s, pings in ((0, 0), (100, 0), (51, 1), (0, 1)):
            # As if it had been silent for so much longer.
            client._asked_at -= more_s
            client.wait(0.01)
            assert len(pinged) == pings
        assert client._wire is connection


def test_waiting_begins_again_where_the_server_did_hang_up(bundle):
    with Serving(FLEET, idle_s=0.3) as address:
        host, port = address.split(":")
        with LinkClient(bundle, host, int(port)) as client:
            client.transmit(b"")
            client._idle_s = 3600
            connection = client._wire
            begun = time.monotonic()
            # The server looks after the silent once in a while.
            while client._wire is connection and time.monotonic() < begun + 60:
                started = time.monotonic()
                client.wait(0.2)
                assert time.monotonic() - started >= 0.2
            assert client._wire is not connection


# As phases like the others


@pytest.mark.parametrize("in_process", [True, False])
def test_both_are_measured_like_every_other_phase(bundle, server, in_process):
    entry = bench_bundle(bundle, {}, ["encode", "transmit", "wait"], SHORT, in_process=in_process, server=server)
    assert list(entry["phases"]) == ["encode", "transmit", "wait"]
    for name in LINK_PHASES:
        phase = entry["phases"][name]
        assert phase["origin"] == "measured"
        assert phase["summary"] == summary(phase["samples_ms"])
        assert len(phase["samples_ms"]) == SHORT.min_samples
        assert (phase["engine_sha256"], phase["link"]["server"]) == (None, server)
        assert set(phase["link"]) == {"server", "tls", "server_ms", "asked", "payload_bytes", "sent_bytes"}
    assert "link" not in entry["phases"]["encode"]
    wait = entry["phases"]["wait"]
    assert wait["summary"]["min_ms"] >= 0.99 * wait["link"]["server_ms"]


@pytest.mark.slow
def test_their_energy_is_measured_by_looping_each_alone(bundle, server):
    class Steady(Meter):
        name, rails, boundary = "double", ("board",), "the board"
        readings = 0

        def _values(self):
            self.readings += 1
            return (2000.0 + self.readings % 7,)

    brief = EnergyEffort(
        idle_s=0.3,
        settle_s=0.05,
        warm_up_s=0.1,
        window_s=0.1,
        warm_up_max_s=0.6,
        repeats=2,
        run_s=0.4,
        run_refreshes=0,
        run_inferences=1,
        run_max_s=120.0,
        min_readings=5,
        block_s=0.05,
        gap_max_s=0.005,
    )
    for name in LINK_PHASES:
        with loaded_link_phase(bundle, name, server) as phase:
            told = energy_of_phase(phase, PowerRequest("double", "a test", {}, brief), Steady())
        # A machine that stalls leaves no power of a time so short, and says so.
        assert len(told["repeats"]) == 2 or "too_short" in told["codes"]
        for repeat in told["repeats"]:
            assert repeat["inferences"] > 0
            assert repeat["mean_mw"] == pytest.approx(2003.0, abs=3.0)
        assert [sum(block[2] for block in run["blocks"]) > 0 for run in told["record"]["runs"]] == [True, True]


def test_a_bundle_has_them_only_with_a_server(bundle, server):
    assert link_phases(None) == []
    assert link_phases(server) == ["transmit", "wait"]
    assert checked_phases(bundle, {}, ["wait"], server=server) == ["wait"]
    with pytest.raises(UnknownNameError, match="phase 'send' does not exist; there are: head, .*, transmit, wait"):
        checked_phases(bundle, {}, ["transmit", "send"], server=server)


def test_the_agent_measures_them_too(server, monkeypatch):
    monkeypatch.setattr(agent_verbs, "engines_for_bundle", lambda *_words: {})
    words = ["bench", os.path.join(FLEET, "rb1"), "--target", "cpu", "--samples", "5", "--warm-up", "0.02"]
    profile = agent_verbs.bench(agent._parser().parse_args(words + ["--server", server]), lambda message: None)
    (entry,) = profile["bundles"]
    assert list(entry["phases"]) == ["encode", "decode", "transmit", "wait"]
    address = nobody()
    with pytest.raises(ServerUnreachableError, match=address):
        agent_verbs.bench(agent._parser().parse_args(words + ["--server", address]), lambda message: None)


# What cannot be


def test_no_server_there_is_told_before_and_while_it_is_measured(bundle):
    address = nobody()
    with pytest.raises(ServerUnreachableError, match="no server answers at " + address):
        check_server(bundle, address)
    with pytest.raises(ServerUnreachableError, match="no server answers at " + address):
        bench_bundle(bundle, {}, ["transmit"], SHORT, server=address)
    check_server(bundle, None)


def test_a_server_without_this_bundle_is_refused(bundle):
    with Serving(os.path.join(FLEET, "rb2")) as address:
        with pytest.raises(BundleError, match=r"does not serve tiny-rb1 .* it serves: tiny-rb2"):
            check_server(bundle, address)
        with pytest.raises(BundleError, match="does not serve tiny-rb1"):
            bench_phase(bundle, "wait", None, SHORT, server=address)


@pytest.mark.parametrize("name", LINK_PHASES)
def test_a_server_that_ends_meanwhile_ends_the_measurement(bundle, name, monkeypatch):
    clients = []
    real = LinkClient.__enter__
    monkeypatch.setattr(LinkClient, "__enter__", lambda client: clients.append(client) or real(client))
    serving = Serving(FLEET)
    with serving as address, loaded_link_phase(bundle, name, address) as phase:
        phase.run(0)
        threading.Thread(target=serving.end).start()
        serving.process.wait(60)
        clients[0]._timeout_s = 1.0  # it goes on looking for so long
        with pytest.raises(WireError):
            phase.run(0)


@pytest.mark.parametrize(
    ("server_at", "asked", "words"),
    [
        (None, ["head", "wait"], "transmit and wait need a server"),
        (None, ["transmit"], "give --server HOST:PORT"),
        ("here", None, "--server must be HOST:PORT"),
        ("here:0", ["wait"], "--server must be HOST:PORT with a port of 1 to 65535"),
        ("here:1", ["head"], "--server is for the phases transmit and wait"),
    ],
)
def test_wrong_uses_are_told_by_option(bundle, server_at, asked, words):
    with pytest.raises(UsageError, match=words):
        bench_bundle(bundle, {}, asked, SHORT, server=server_at)
