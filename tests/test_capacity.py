"""The formulas of docs/capacity.md, against known values and a simulation; and the page, against its data."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@contextlib.contextmanager
def benchmark(name: str) -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


with benchmark("capacity") as module:
    capacity: Any = module


def test_erlang_c_has_its_tabulated_values() -> None:
    assert capacity.erlang_c(1, 0.5) == pytest.approx(0.5)
    assert capacity.erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert capacity.erlang_c(10, 8.0) == pytest.approx(0.409180, abs=1e-6)
    assert capacity.erlang_c(3, 3.0) == 1.0
    assert 0 < capacity.erlang_c(10_000, 9_900.0) < 1


def test_a_line_is_found_again() -> None:
    tail = capacity.tail_from_times({batch: 3.0 + 0.5 * batch for batch in (1, 2, 4, 8, 16)})
    assert (tail.fixed_ms, tail.each_ms) == pytest.approx((3.0, 0.5))
    steeper = capacity.tail_from_times({1: 1.0, 2: 2.4, 4: 5.0})
    assert steeper.fixed_ms == 0
    assert 1.0 < steeper.each_ms < 1.25


def test_servers_keep_their_headroom_and_one_may_fail() -> None:
    tail = capacity.Tail(0.0, 1.0)
    assert tail.per_s(16) == pytest.approx(1000)
    assert capacity.servers_for(700, tail, 16, headroom=0.7) == 2
    assert capacity.servers_for(701, tail, 16, headroom=0.7) == 3
    assert capacity.servers_for(0.001, tail, 16) == 2


def test_waiting_grows_with_load_without_end() -> None:
    waits = [capacity.wait_ms(load * 4 * 100, 4, 10.0, 0.99) for load in (0.1, 0.5, 0.8, 0.95)]
    assert waits == sorted(waits)
    assert capacity.wait_ms(400, 4, 10.0, 0.99) == math.inf


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_a_simulated_queue_without_batches_waits_as_md1(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait of M/D/1 is load / (2 (1 - load)) services."""
    tail = capacity.Tail(10.0, 0.0)
    latencies = capacity.simulated_ms(load * 100, 1, tail, 1, 60_000, seed=1)
    wait = statistics.fmean(latencies) - 10.0
    assert wait == pytest.approx(10.0 * load / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("tail", [(2.0, 15.0), (0.0, 1.0), (5.0, 0.2)])
def test_no_simulated_case_is_above_the_bound(tail: tuple[float, float]) -> None:
    for servers, load, mean, p99, bound in capacity.simulated_cases(capacity.Tail(*tail), 10_000):
        assert max(mean, p99) <= bound, (servers, load)


def test_the_page_is_what_its_data_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    text = capacity.PAGE.read_text(encoding="utf-8")
    found = re.search(r"<!-- simulations: begin -->\n\n(.+)\n\n<!-- simulations: end -->", text, re.DOTALL)
    assert found is not None
    simulations = found[1]  # these take long to compute again
    monkeypatch.setattr(capacity, "table_of_simulations", lambda line: simulations)
    written = capacity.page_with_tables(text, capacity.last_line())
    assert written == text, "run: python benchmarks/capacity.py page"


def test_the_front_end_was_measured_with_enough_requests() -> None:
    front = capacity.last_line()["front"]
    assert front["requests"] >= 1000
    assert 0 < front["cpu_ms"] < 100
