"""Bounds that are kept while images come: simulated images, a simulated clock, every kind of bound."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.early_exit import Exit, ExitAnswer
from bottlekit.device.errors import UsageError
from bottlekit.device.exit_control import BURST, ExitControl
from bottlekit.device.exit_policy import Bounds, bounds_from_text, reached, written

# As if the exit's doubt were spread evenly over 0..0.69: the threshold tells who leaves. Most accurate where nobody
# does.
CURVE = [
    {"threshold": 0.69 * step / 20, "early_share": step / 20, "accuracy": 0.99 - 0.005 * step} for step in range(21)
]
EXIT = Exit("rb1", "entropy", 0.3, CURVE, [], (("rb1", "exit_logits"),), 0.5, 100.0)


def answer(doubt, threshold, head_ms=2.0, offload_ms=8.0, payload=100):
    early = doubt < threshold
    times_ms = {"head": head_ms, "decide": 0.0}
    if not early:
        times_ms.update(encode=0.0, round_trip=offload_ms, queue=1.0, decode=1.0, tail=1.0)
    return ExitAnswer(0, "cat", None, early, doubt, times_ms, 0 if early else payload, 0, 0)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def run_of(control, doubts, clock=None, step_s=0.0, **costs):
    answers = []
    for doubt in doubts:
        if clock is not None:
            clock.now_s += step_s
        answers.append(answer(doubt, control.threshold(), **costs))
        control.told(answers[-1])
    return answers


def evenly(count, seed=0):
    dice = random.Random(seed)
    return [dice.uniform(0.0, 0.689) for _ in range(count)]


def sent(answers):
    return sum(not one.early for one in answers)


def test_without_a_bound_that_binds_the_most_accurate_threshold_is_used():
    control = ExitControl(EXIT, 2, Bounds(payload_bytes=1000.0))
    assert sent(run_of(control, evenly(50))) == 50


@pytest.mark.parametrize("budget", [10.0, 25.0, 70.0])
def test_a_byte_budget_is_kept_and_used(budget):
    answers = run_of(ExitControl(EXIT, 2, Bounds(payload_bytes=budget)), evenly(1000))
    mean = sum(one.payload_bytes for one in answers) / len(answers)
    assert budget * 0.85 <= mean <= budget * 1.02


@given(
    doubts=st.lists(st.floats(0.0, 0.689), min_size=1, max_size=300),
    budget=st.floats(1.0, 99.0),
)
def test_whatever_comes_the_budget_is_exceeded_by_a_burst_at_most(doubts, budget):
    answers = run_of(ExitControl(EXIT, 2, Bounds(payload_bytes=budget)), doubts)
    assert sent(answers) <= len(doubts) * budget / 100.0 + BURST + 1


def test_images_that_are_harder_than_the_bundles_still_keep_the_budget():
    answers = run_of(ExitControl(EXIT, 2, Bounds(payload_bytes=25.0)), [0.6] * 1000)
    assert sent(answers) <= 250 + BURST + 1


def test_a_mean_latency_is_kept_as_soon_as_sending_is_known():
    answers = run_of(ExitControl(EXIT, 2, Bounds(latency_ms=4.0)), evenly(1000))
    found = reached(Bounds(latency_ms=4.0), answers, 1.0)
    assert 3.5 <= found["reached"]["latency-ms"] <= 4.1


def test_nobody_is_sent_when_the_deadline_would_be_missed_and_a_quicker_link_is_found_again():
    control = ExitControl(EXIT, 2, Bounds(deadline_ms=9.0))
    first = run_of(control, [0.6] * 5, offload_ms=6.0)
    assert sent(first) == 5
    slow = run_of(control, [0.6] * 40, offload_ms=30.0)
    assert 1 <= sent(slow) <= 3
    assert sent(run_of(control, [0.6] * 400, offload_ms=3.0)) > 100


def test_the_servers_load_counts_requests_a_second():
    clock = Clock()
    control = ExitControl(EXIT, 2, Bounds(server_per_s=20.0), clock)
    answers = run_of(control, evenly(1000), clock, step_s=0.01)
    assert 170 <= sent(answers) <= 200 + BURST + 1
    told = ExitControl(EXIT, 2, Bounds(server_per_s=20.0, images_per_s=100.0))
    assert 170 <= sent(run_of(told, evenly(1000))) <= 200 + BURST + 1


def test_a_head_that_is_too_slow_alone_is_no_error_and_not_kept():
    bounds = Bounds(latency_ms=1.0)
    answers = run_of(ExitControl(EXIT, 2, bounds), [0.6] * 20)
    assert sent(answers[1:]) == 0
    assert reached(bounds, answers, 1.0)["kept"] == {"latency-ms": False}


def test_the_largest_probability_has_its_own_end():
    curve = [{"threshold": 1.0, "early_share": 0.0, "accuracy": 0.9}]
    control = ExitControl(EXIT._replace(rule="max-probability", curve=curve), 2, Bounds(payload_bytes=1.0))
    assert control.threshold() == 0.0


def test_bounds_are_read_as_they_are_written():
    bounds = bounds_from_text("bytes=20, deadline-ms=50,server-per-s=3,images-per-s=30,latency-ms=9.5")
    assert bounds == Bounds(20.0, 9.5, 3.0, 30.0, 50.0)
    assert bounds_from_text(",".join("{}={}".format(*one) for one in written(bounds).items())) == bounds
    assert written(Bounds(latency_ms=4.0)) == {"latency-ms": 4.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("byte=3", "--exit-policy has no bound 'byte'; there are: bytes, latency-ms"),
        ("", "no bound ''"),
        ("bytes", "--exit-policy: bytes needs a number, not ''"),
        ("bytes=few", "bytes needs a number, not 'few'"),
        ("bytes=0", "bytes must be more than 0, not 0"),
        ("latency-ms=nan", "latency-ms must be more than 0, not nan"),
        ("images-per-s=3", "it bounds nothing by itself"),
    ],
)
def test_other_words_are_refused(text, words):
    with pytest.raises(UsageError) as caught:
        bounds_from_text(text)
    assert words in str(caught.value)


def test_the_report_says_what_was_reached():
    answers = [answer(0.1, 0.3), answer(0.6, 0.3), answer(0.6, 0.3, offload_ms=20.0)]
    bounds = Bounds(payload_bytes=70.0, latency_ms=9.0, server_per_s=1.0, deadline_ms=15.0)
    assert reached(bounds, answers, 4.0) == {
        "bounds": {"bytes": 70.0, "latency-ms": 9.0, "server-per-s": 1.0, "deadline-ms": 15.0},
        "reached": {
            "bytes": pytest.approx(200 / 3),
            "latency-ms": pytest.approx((2 + 10 + 22) / 3),
            "server-per-s": pytest.approx(0.5),
            "deadline-ms": 22.0,
        },
        "kept": {"bytes": True, "latency-ms": False, "server-per-s": True, "deadline-ms": False},
        "missed": 1,
    }
    with pytest.raises(UsageError, match="nothing to report"):
        reached(bounds, [], 1.0)
