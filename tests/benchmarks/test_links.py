"""Shaped links: the arithmetic, the table, the pacer, and two namespaces where there can be some."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def module(name: str) -> Any:
    return importlib.import_module(f"links.{name}")


def test_bytes_take_their_bits_over_the_rate() -> None:
    rate = module("shaping").Rate([(0.0, 8.0)])
    assert rate.done_s(1.0, 1e6) == pytest.approx(2.0)
    assert rate.done_s(1.0, 0) == 1.0


def test_bytes_wait_for_the_end_of_an_outage() -> None:
    rate = module("shaping").Rate([(0.0, 8.0), (1.0, 0.0), (3.0, 4.0)])
    assert rate.at(-1.0) == 8.0
    assert rate.at(1.5) == 0.0
    assert rate.done_s(0.5, 1e6) == pytest.approx(4.0)  # half before, half after at half the rate
    assert rate.done_s(2.0, 0.5e6) == pytest.approx(4.0)


@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 50.0)), max_size=5),
    st.floats(0.0, 10.0),
    st.floats(0.0, 1e6),
    st.floats(0.0, 1e6),
)
def test_two_parts_take_as_long_as_the_whole(
    steps: list[tuple[float, float]], begin_s: float, first: float, second: float
) -> None:
    ends = [sum(length for length, _ in steps[: number + 1]) for number in range(len(steps))]
    rate = module("shaping").Rate([(0.0, 1.0), *zip(ends, (mbps for _, mbps in steps), strict=True), (99.0, 2.0)])
    in_parts_s = rate.done_s(rate.done_s(begin_s, first), second)
    assert in_parts_s == pytest.approx(rate.done_s(begin_s, first + second), abs=1e-6)


@pytest.mark.parametrize(
    "steps", [[], [(0.0, 0.0)], [(0.0, -1.0), (1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)], [(0.0, math.inf)]]
)
def test_a_rate_that_makes_no_sense_is_refused(steps: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="rate"):
        module("shaping").Rate(steps)


def test_pieces_on_a_serial_line_go_one_after_the_other() -> None:
    shaping = module("shaping")
    line = shaping.SerialLine(shaping.Rate([(0.0, 8.0)]))
    assert line.due_s(1.0, 500_000) == pytest.approx(1.5)
    assert line.due_s(1.1, 500_000) == pytest.approx(2.0)
    assert line.due_s(5.0, 500_000) == pytest.approx(5.5)


def test_a_bucket_lets_through_what_it_holds_and_counts_headers() -> None:
    tbf = module("shaping").Tbf(1.0, 1600, 1500)
    assert tbf.wire_bytes(1448) == 1514
    assert tbf.wire_bytes(1449) == 1449 + 2 * 66
    assert tbf.transfer_ms(1000) == 0.0
    assert tbf.transfer_ms(1448 * 10) == pytest.approx((15140 - 1600) * 8e-3)


@pytest.mark.parametrize("mbps", [0.05, 1.1, 5.85, 18.88, 54.97])
def test_a_bucket_holds_one_packet_and_not_two(mbps: float) -> None:
    tbf = module("shaping").tbf_for(mbps)
    packet = tbf.mtu_bytes + 14
    assert packet <= tbf.burst_bytes < 2 * packet
    assert tbf.words[:3] == ["tbf", "rate", f"{round(mbps * 1e6)}bit"]


def image(**times_ms: float) -> dict[str, Any]:
    return {"times_ms": times_ms, "framed_bytes": 1000, "response_bytes": 100}


def test_the_latency_of_an_answer_is_what_the_device_saw() -> None:
    table = module("table")
    found = table.sample_of(image(head=2.0, encode=0.5, round_trip=20.0, queue=3.0, decode=0.5, tail=10.0))
    assert (found.latency_ms, found.computed_ms, found.up_bytes) == (22.5, 13.0, 1000)
    assert table.sample_of(image(round_trip=20.0, queue=0.0, decode=1.0, baseline=10.0)).latency_ms == 20.0
    assert table.sample_of({"times_ms": {"baseline": 7.0}}) == (7.0, 0, 0, 7.0)


def test_measured_is_compared_with_bytes_over_rate_and_compute() -> None:
    table = module("table")
    samples = [(table.Sample(latency_ms, 1000, 0, 10.0), 8.0) for latency_ms in (11.0, 12.0, 13.0)]
    found = table.summed_up(samples, lambda there, back: there / 500)
    assert (found["measured_ms"], found["modelled_ms"], found["transfer_ms"]) == (12.0, 10.0, 2.0)
    assert found["over_model"] == pytest.approx(0.2)
    assert found["over_parts"] == pytest.approx(0.0)


def test_the_table_stands_beside_the_papers() -> None:
    page = module("page")
    row = {"up_bytes": 500.0, "measured_ms": 20.0, "modelled_ms": 19.0, "over_model": 0.05}
    cloud = {**row, "measured_ms": 200.0}
    case = {"link": "3g", "shaped_by": "pacer", "setups": {"cloud-only": cloud, "collaborative": row}}
    lines = page.table_lines({"cases": [case]})
    assert lines[-1] == "| 3G | pacer | collaborative | 500 | 20.0 | 19.0 | +5.0% | 10.0 | 3.1 | 63.3 |"
    text = page.with_table("a\n<!-- table: begin -->\nold\n<!-- table: end -->\nb\n", ["new"])
    assert text == "a\n<!-- table: begin -->\n\nnew\n\n<!-- table: end -->\nb\n"
    with pytest.raises(ValueError, match="marks"):
        page.with_table("a page", ["new"])


def answer(at_s: float, latency_ms: float, split: str | None, lost: bool = False) -> dict[str, Any]:
    return {"at_s": at_s, "latency_ms": latency_ms, "split": split, "lost": "gone" if lost else None}


def test_the_oracle_takes_the_best_of_every_stretch() -> None:
    verdict = module("verdict")
    fixed = {
        "rb1": [answer(0.5, 10.0, "rb1"), answer(1.5, 9000.0, "rb1")],  # waited through the third stretch
        "mobile-only": [answer(at_s, 50.0, "mobile-only") for at_s in (0.0, 0.9, 1.0, 2.5)],
    }
    adaptive = [
        answer(0.1, 11.0, "rb1"),
        answer(0.2, 11.0, "rb1"),
        answer(1.2, 70.0, "mobile-only"),
        answer(2.2, 50.0, "x"),
    ]
    assert verdict.oracle_ms(adaptive, fixed, [0.0, 1.0, 2.0]) == (120.0, ["rb1", "mobile-only", "mobile-only"])
    assert verdict.total_ms(adaptive) == 142.0


def test_a_break_is_survived_when_all_is_answered_here_and_the_server_is_used_again() -> None:
    verdict = module("verdict")
    breaks = [verdict.Break("outage", 1.0, 3.0), verdict.Break("stall", 6.0, 8.0)]
    answers = [
        answer(0.9, 10.0, "rb1"),
        answer(1.1, 200.0, "mobile-only", lost=True),
        answer(2.4, 50.0, "mobile-only"),
        answer(2.9, 150.0, "rb1"),  # asked just before the end, answered after it
        answer(4.0, 10.0, "rb3"),
        answer(6.1, 9000.0, "rb1"),
        answer(8.5, 10.0, "mobile-only"),
    ]
    first, second = verdict.through_breaks(answers, breaks)
    assert (first["images"], first["lost"], first["not_answered_here"], first["longest_ms"]) == (2, 1, 0, 200.0)
    assert first["back_s"] == 0.0
    assert (second["images"], second["not_answered_here"], second["back_s"]) == (1, 1, None)


@pytest.mark.parametrize("seed", range(20))
def test_a_trace_has_each_break_once_and_ends_whole(seed: int) -> None:
    trace_ = module("trace").trace_from_seed(seed, 90.0, ("outage", "stall", "cut"))
    assert sorted(one.kind for one in trace_.breaks) == ["cut", "outage", "stall"]
    assert all(one.end_s < later.begin_s for one, later in itertools.pairwise(trace_.breaks))
    assert trace_.breaks[-1].end_s + 3.0 < trace_.seconds
    rate = module("shaping").Rate(trace_.rates)
    for one in trace_.breaks:
        assert (rate.at(one.begin_s) == 0.0) == (one.kind == "outage")
        assert rate.at(one.end_s) > 0.0


def test_a_trace_without_breaks_only_changes_its_rate() -> None:
    trace_ = module("trace").trace_from_seed(3, 90.0, ())
    assert trace_.breaks == []
    assert len(trace_.rates) > 5
    assert all(mbps > 0.0 for _, mbps in trace_.rates)


def test_a_slowed_device_has_networks_and_no_codecs_slowed() -> None:
    shared = {"summary": {"p50_ms": 2.0}}
    phases = {"head": {"summary": {"p50_ms": 1.0}}, "encode": {"summary": {"p50_ms": 0.1}}, "baseline": shared}
    device = module("trace").slowed({"bundles": [{"phases": phases}, {"phases": dict(phases)}]}, 40.0)
    for entry in device["bundles"]:
        medians = {name: phase["summary"]["p50_ms"] for name, phase in entry["phases"].items()}
        assert medians == {"head": 40.0, "encode": 0.1, "baseline": 80.0}
    assert shared["summary"]["p50_ms"] == 2.0


def test_the_pacer_passes_on_every_byte_and_the_end() -> None:
    shaping, pacer = module("shaping"), module("pacer")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fast = shaping.Rate([(0.0, 1000.0)])
        relay = pacer.Pacer(listening.getsockname(), fast, fast)
        sent = bytes(range(256)) * 400
        with socket.create_connection(relay.address, timeout=60) as client:
            server, _ = listening.accept()
            server.settimeout(60)
            writing = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            writing.start()
            with server, server.makefile("rb") as there, client.makefile("rb") as back:
                assert there.read() == sent
                server.sendall(sent[::-1])
                server.shutdown(socket.SHUT_WR)
                assert back.read() == sent[::-1]
            writing.join()


@pytest.mark.slow
def test_namespaces_of_a_killed_run_go_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    namespaces = module("namespaces")
    why_not = namespaces.why_no_namespaces()
    if why_not is not None:
        pytest.skip(why_not)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    code = "import time; from links.namespaces import Namespaces\n"
    code += "with Namespaces() as spaces: print(*spaces.names, flush=True); time.sleep(600)"
    with namespaces.process([sys.executable, "-c", code]) as killed:
        stale = killed.stdout.readline().split()
        killed.kill()
        killed.wait()
    assert set(stale) <= set(namespaces.existing_names())
    with namespaces.Namespaces():
        assert not set(stale) & set(namespaces.existing_names())


@pytest.mark.slow
def test_namespaces_are_joined_shaped_cut_and_gone_afterwards() -> None:
    namespaces, shaping = module("namespaces"), module("shaping")
    why_not = namespaces.why_no_namespaces()
    if why_not is not None:
        pytest.skip(why_not)
    serve = (
        "import socket, sys; s = socket.create_server(('198.18.0.2', 0)); print(s.getsockname()[1], flush=True); "
    )
    serve += "c, _ = s.accept(); c.sendall(c.makefile('rb').read())"
    ask = "import socket, sys; c = socket.create_connection(('198.18.0.2', int(sys.argv[1])), 60); "
    ask += "c.sendall(bytes(9000)); c.shutdown(socket.SHUT_WR); print(len(c.makefile('rb').read()))"
    with namespaces.Namespaces() as spaces:
        assert set(spaces.names) <= set(namespaces.existing_names())
        for mbps in (1.1, 18.88):
            spaces.shape("device", shaping.tbf_for(mbps))
        spaces.cut(True)
        spaces.cut(False)
        with namespaces.process(spaces.command("server", [sys.executable, "-c", serve])) as server:
            port = server.stdout.readline().strip()
            with namespaces.process(spaces.command("device", [sys.executable, "-c", ask, port])) as client:
                assert json.loads(client.stdout.readline()) == 9000
    assert len(spaces.names) == 2
    assert not set(spaces.names) & set(namespaces.existing_names())
