"""Conditions: what they say, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.report.conditions import METRICS, condition_from_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p95>+5%", ("p95", ">", 5.0, "%")),
        ("  energy_mj > +3 % ", ("energy_mj", ">", 3.0, "%")),
        ("accuracy<-0.5points", ("accuracy", "<", -0.5, "points")),
        ("p50>+.25ms", ("p50", ">", 0.25, "ms")),
        ("payload_bytes>+10B", ("payload_bytes", ">", 10.0, "B")),
        ("net_energy_mj>+0%", ("net_energy_mj", ">", 0.0, "%")),
        ("mean_ms<-1.%", ("mean_ms", "<", -1.0, "%")),
    ],
)
def test_a_condition_is_read(text: str, expected: tuple[str, str, float, str]) -> None:
    condition = condition_from_text(text)
    assert (condition.metric.name, condition.direction, condition.amount, condition.unit) == expected
    assert condition.text == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "p95", "p95>5%", "p95=+5%", "p95>=+5%", "p95>+%", "p95>+5% and more", "p95>+1e3%", "p95>+nan%"],
)
def test_what_is_no_condition_is_told_what_one_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"no condition; write METRIC.*p95>\+5%.*metrics: p50, p90"):
        condition_from_text(text)


def test_an_unknown_metric_is_told_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="metric 'p96' does not exist; there are: p50, .*, accuracy"):
        condition_from_text("p96>+5%")


@pytest.mark.parametrize(
    ("text", "unit"), [("p95>+5mJ", "ms"), ("p95>+5%%", "ms"), ("energy_mj>+5", "mJ"), ("accuracy<-1B", "points")]
)
def test_a_unit_of_another_metric_is_refused(text: str, unit: str) -> None:
    with pytest.raises(UsageError, match=f"in % or in {unit}"):
        condition_from_text(text)


@pytest.mark.parametrize("text", ["p95>-5%", "accuracy<+1%"])
def test_a_condition_that_equal_runs_fulfil_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="two equal runs"):
        condition_from_text(text)


def test_a_number_too_large_is_refused() -> None:
    with pytest.raises(UsageError, match="no finite number"):
        condition_from_text(f"p95>+{'9' * 400}%")


@given(st.sampled_from(sorted(METRICS)), st.floats(1, 1e6), st.floats(1, 1e6), st.booleans())
def test_two_equal_values_are_never_beyond(name: str, value: float, limit: float, percent: bool) -> None:
    unit = "%" if percent else METRICS[name].word
    for sides in (f">+{limit:.3f}", "<-0"):
        assert not condition_from_text(f"{name}{sides}{unit}").beyond(value, value)


def test_beyond_counts_in_the_units_of_the_condition() -> None:
    assert condition_from_text("p95>+5%").beyond(2.0, 2.11)
    assert not condition_from_text("p95>+5%").beyond(2.0, 2.09)
    assert condition_from_text("p95>+0.1ms").beyond(2.0, 2.11)
    assert not condition_from_text("p95>+0.2ms").beyond(2.0, 2.11)
    assert condition_from_text("accuracy<-0.5points").beyond(0.98, 0.974)
    assert not condition_from_text("accuracy<-0.5points").beyond(0.98, 0.976)
    assert not condition_from_text("p95<-5%").beyond(2.0, 2.11)
