"""The policy with simulated time: estimates follow links, choices follow estimates, and neither flaps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.adaptive.estimate import Factor, LinkEstimate, ServerLoad
from bottlekit.device.adaptive.options import MOBILE_ONLY, Option, predicted, ranked
from bottlekit.device.adaptive.policy import Policy, Settings
from bottlekit.device.errors import UnknownNameError, UsageError

EARLY = Option("rb1", "net-rb1", "head", 1, 2.0, 2.0, 1000.0)
LATE = Option("rb8", "net-rb8", "head", 8, 12.0, 1.0, 100.0)
HERE = Option(MOBILE_ONLY, "net-rb1", "baseline", 0, 60.0, None, 0.0)
OPTIONS = [EARLY, LATE, HERE]


def network_ms(size_bytes, mbps, rtt_ms=5.0):
    return rtt_ms + size_bytes * 8e-3 / mbps


def told(policy, now_s, mbps, rtt_ms=5.0, at_work=0):
    """The policy after a short and a padded ping on such a link."""
    for size in (12, policy.padding_bytes()):
        policy.pinged(now_s, size, network_ms(size, mbps, rtt_ms), at_work)
    return policy


def answered(policy, now_s, option, mbps, rtt_ms=5.0, noise=1.0, server=1.0):
    policy.answered(
        now_s,
        option,
        option.offloaded_bytes,
        network_ms(option.offloaded_bytes, mbps, rtt_ms) * noise,
        option.device_ms * noise,
        option.server_ms * server * noise,
    )


# ---- estimates


@given(rtt_ms=st.floats(0.5, 300.0), mbps=st.floats(0.05, 200.0))
def test_pings_of_two_sizes_tell_round_trip_and_rate(rtt_ms, mbps):
    link = LinkEstimate()
    for round_ in range(12):
        for size in (12, 2000 if mbps < 5 else 32768):
            link.observe(round_ * 1.0, size, network_ms(size, mbps, rtt_ms))
    for size in (50, 500, 2000):
        expected = network_ms(size, mbps, rtt_ms)
        assert link.rtt_ms + size * link.ms_per_byte == pytest.approx(expected, rel=0.1, abs=0.5)


@pytest.mark.parametrize(("before", "after"), [(20.0, 0.5), (0.5, 20.0), (5.0, 1.0)])
def test_a_step_of_the_rate_is_followed_by_requests_alone(before, after):
    link = LinkEstimate()
    for second in range(20):
        link.observe(second, 12, network_ms(12, before))
        link.observe(second, 2000, network_ms(2000, before))
    for request in range(4):
        link.observe(20 + 0.2 * request, 2000, network_ms(2000, after))
    assert link.rtt_ms + 2000 * link.ms_per_byte == pytest.approx(network_ms(2000, after), rel=0.2)


def test_one_late_packet_moves_the_estimate_little():
    link = LinkEstimate()
    for second in range(30):
        link.observe(second, 12, 5.0)
        link.observe(second, 1000, 13.0)
    link.observe(30, 1000, 500.0)
    assert link.suspicious
    assert link.rtt_ms + 1000 * link.ms_per_byte < 20.0
    link.observe(30.2, 1000, 13.0)
    link.observe(30.4, 1000, 13.0)
    assert not link.suspicious


@given(st.lists(st.tuples(st.floats(-10, 100), st.floats(0, 1e6), st.floats(0, 1e5)), min_size=1, max_size=40))
def test_whatever_is_observed_the_estimate_stays_possible(samples):
    link = LinkEstimate()
    for now_s, size, taken_ms in samples:
        link.observe(now_s, size, taken_ms)
        assert 0.0 < link.rtt_ms < 1e7
        assert 0.0 < link.ms_per_byte < 1e7
        assert link.uplink_mbps > 0.0


def test_a_factor_follows_and_one_outlier_moves_it_by_a_bounded_step():
    factor = Factor()
    for _ in range(20):
        factor.observe(3.0)
    assert factor.value == pytest.approx(3.0, rel=0.01)
    factor.observe(1e9)
    assert factor.value < 6.0


def test_the_server_load_of_pings_is_scaled_by_what_answers_took():
    load = ServerLoad()
    for _ in range(40):
        load.observe_ping(8, answered_lately=True)
        load.observe_answer(2.0)  # eight at work, and yet only twice the time: it batches
    for _ in range(20):
        load.observe_ping(16, answered_lately=False)
    assert load.value == pytest.approx(3.0, rel=0.1)


# ---- choices


def test_the_choice_follows_the_link_both_ways():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    assert policy.choose(0.1).option is EARLY
    now = 1.0
    for mbps, expected in ((0.3, LATE), (20.0, EARLY), (0.01, HERE), (20.0, EARLY)):
        for _ in range(6):
            now += 1.0
            told(policy, now, mbps)
        choices = [policy.choose(now).option for _ in range(2)]
        assert choices[-1] is expected


def test_a_busy_server_sends_work_home_and_an_idle_one_gets_it_back():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    assert policy.choose(0.0).option is EARLY
    for second in range(10):
        answered(policy, second, EARLY, 20.0, server=60.0)
    assert policy.choose(10.0).option is HERE
    for second in range(10, 60, 2):
        told(policy, second, 20.0, at_work=0)
    assert policy.choose(60.0).option is EARLY


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_does_not_flap(seed):
    """Two splits within the margin of each other, 10 % noise on everything, 2000 requests: a handful of changes."""
    rng = random.Random(seed)
    twin = EARLY._replace(name="rb2", bundle="net-rb2", split_index=2, device_ms=2.1)
    policy = told(Policy([EARLY, twin, HERE]), 0.0, 5.0)
    for number in range(2000):
        now_s = 0.2 * number
        option = policy.choose(now_s).option
        assert option is not HERE
        answered(policy, now_s, option, 5.0, noise=rng.uniform(0.9, 1.1))
        if number % 10 == 0:
            told(policy, now_s, 5.0 * rng.uniform(0.9, 1.1))
    assert policy.switches <= 2


@given(
    gains=st.lists(st.floats(-0.04, 0.04), min_size=1, max_size=60),
)
def test_a_gain_below_the_margin_never_changes_anything(gains):
    settings = Settings(margin=0.05)
    policy = told(Policy(OPTIONS, settings), 0.0, 20.0)
    first = policy.choose(0.0).option
    for gain in gains:
        rival = LATE._replace(
            device_ms=sum(predicted(EARLY, policy.link.rtt_ms, policy.link.ms_per_byte).terms_ms.values())
            * (1.0 - gain)
            - policy.link.rtt_ms
            - LATE.offloaded_bytes * policy.link.ms_per_byte
            - LATE.server_ms
        )
        policy.options = [EARLY, rival, HERE]
        assert policy.choose(1.0).option is first
    assert policy.switches == 0


def test_a_small_gain_has_to_be_confirmed_and_a_clear_one_not():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    assert policy.choose(0.0).option is EARLY
    now = sum(predicted(EARLY, policy.link.rtt_ms, policy.link.ms_per_byte).terms_ms.values())
    policy.options = [EARLY, HERE._replace(device_ms=now * 0.9)]
    assert policy.choose(1.0).reason.endswith("to be confirmed")
    second = policy.choose(1.2)
    assert second.option.name == MOBILE_ONLY
    assert second.reason.startswith("changed from rb1")
    policy.options = [EARLY._replace(device_ms=0.01, offloaded_bytes=1.0), HERE]
    assert policy.choose(1.4).option.name == "rb1"


def test_a_decision_says_every_term_and_sums_up():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    decision = policy.choose(0.0)
    assert set(decision.terms_ms) == {"device", "uplink", "rtt", "server"}
    assert decision.considered[0].option.name == "rb1"
    assert {one.option.name for one in decision.considered} == {"rb1", "rb8", MOBILE_ONLY}
    assert decision.considered == ranked(decision.considered)
    assert decision.reason == "least predicted latency"


# ---- losing the server


def test_before_anything_was_heard_the_whole_network_runs_here():
    decision = Policy(OPTIONS).choose(0.0)
    assert decision.option is HERE
    assert "no server was heard of yet" in decision.reason
    assert decision.patience_ms is None


def test_a_lost_server_is_left_alone_until_a_ping_and_the_pause():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    assert policy.choose(0.0).option is EARLY
    policy.failed(1.0, "it burns")
    assert policy.choose(1.1).option is HERE
    assert "it burns" in policy.choose(1.1).reason
    assert policy.choose(100.0).option is HERE  # time alone does not bring it back
    told(policy, 1.2, 20.0)
    assert policy.choose(1.3).option is HERE  # nor does a ping alone
    assert policy.choose(1.6).option is EARLY
    answered(policy, 1.7, EARLY, 20.0)
    assert policy.why_lost is None


def test_pauses_double_while_pings_come_back_and_requests_do_not():
    """A server that answers pings and nothing else costs less and less, and never more than one try in 10 s."""
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    tries = []
    for tick in range(1000):
        now_s = 0.1 * tick
        told(policy, now_s, 20.0)
        if policy.choose(now_s).option.is_remote:
            tries.append(now_s)
            policy.failed(now_s, "silence")
    gaps = [later - earlier for earlier, later in zip(tries, tries[1:])]
    assert gaps == sorted(gaps)
    assert len(tries) <= 15
    assert 9.9 <= gaps[-1] <= 10.2


def test_pings_to_a_dead_server_become_rarer_and_stay_bounded():
    policy = Policy(OPTIONS)
    waits, now_s = [], 0.0
    for _ in range(12):
        policy.ping_failed(now_s, "nobody there")
        waits.append(policy.probe_wait_s(now_s))
        now_s += waits[-1]
    assert waits == sorted(waits)
    assert waits[0] == 0.5
    for number in range(1, len(waits)):
        away_s = sum(waits[:number])
        assert waits[number] == pytest.approx(min(max(0.25 * away_s, 0.5), 10.0))
    for _ in range(20):
        now_s += 10.0
        policy.ping_failed(now_s, "nobody there")
    assert policy.probe_wait_s(now_s) == 10.0
    told(policy, now_s, 20.0)
    assert policy.choose(now_s).option is EARLY


def test_what_shared_the_link_tells_only_that_it_took_no_longer():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    for number in range(20):
        answered(policy, 0.1 * number, EARLY, 20.0)
    before = (policy.link.rtt_ms, policy.link.ms_per_byte, policy.probe_wait_s(2.0))
    # A short ping behind a long payload, and a payload behind a padded ping.
    policy.pinged(2.0, 23, 80.0, 0, crossed=True)
    policy.answered(2.0, EARLY, EARLY.offloaded_bytes, 300.0, EARLY.device_ms, EARLY.server_ms, crossed=True)
    policy.pinged(2.0, 4096, 300.0, 0, crossed=True)
    assert (policy.link.rtt_ms, policy.link.ms_per_byte) == before[:2]
    assert not policy.link.suspicious
    assert policy.choose(2.0).option is EARLY
    # The same alone is a link that has changed.
    policy.pinged(2.1, 23, 80.0, 0)
    policy.answered(2.1, EARLY, EARLY.offloaded_bytes, 300.0, EARLY.device_ms, EARLY.server_ms)
    assert policy.link.suspicious
    # And a link that became faster shows, whatever was beside it.
    slow = told(Policy(OPTIONS), 0.0, 0.5)
    slower_ms = slow.link.ms_per_byte
    for number in range(6):
        slow.pinged(0.1 * number, 4096, 4.0, 0, crossed=True)
    assert slow.link.ms_per_byte < 0.5 * slower_ms


def test_a_surprise_is_looked_into_at_once_though_answers_keep_coming():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    for number in range(10):
        answered(policy, 0.1 * number, EARLY, 20.0)
    assert policy.probe_wait_s(1.0) > 1.0
    long_bytes = policy.padding_bytes()
    answered(policy, 1.0, EARLY, 0.5)
    assert policy.probe_wait_s(1.0) == 0.0
    assert policy.padding_bytes() <= long_bytes / 8
    for second in (1.1, 1.6, 2.1):
        answered(policy, second, EARLY, 0.5)
        told(policy, second, 0.5)
    assert policy.probe_wait_s(2.1) > 1.0
    assert policy.link.uplink_mbps == pytest.approx(0.5, rel=0.2)


def test_a_delay_is_blamed_on_the_rate_first_which_sending_less_finds_out():
    link = LinkEstimate()
    for second in range(10):
        for size in (12, 1000):
            link.observe(second, size, network_ms(size, 20.0, rtt_ms=20.0))
    for second in (10.0, 10.1, 10.2):
        link.observe(second, 1000, network_ms(1000, 0.1, rtt_ms=20.0))
    assert link.uplink_mbps < 0.2
    for second in (10.3, 10.4, 10.5, 10.6):  # it was the round trip after all: 100 bytes take as long
        link.observe(second, 100, 100.0)
    assert link.rtt_ms + 100 * link.ms_per_byte == pytest.approx(100.0, rel=0.2)


def test_a_rate_that_fell_far_is_found_though_long_pings_are_lost():
    policy, now_s = Policy(OPTIONS), 0.0
    for _ in range(5):
        told(policy, now_s, 19.5)
        now_s += 2.0
    policy.failed(now_s, "no answer in time")
    for _ in range(12):
        now_s += policy.probe_wait_s(now_s)
        for size in (12, policy.padding_bytes()):
            taken_ms = network_ms(size, 0.1)
            now_s += min(taken_ms, 2000.0) / 1e3
            if taken_ms > 2000.0:
                policy.ping_failed(now_s, "no answer to a ping")
                break
            policy.pinged(now_s, size, taken_ms, 0)
    assert policy.link.uplink_mbps == pytest.approx(0.1, rel=0.3)
    assert policy.choose(now_s).option is LATE


def test_waiting_is_bounded_by_the_prediction():
    policy = told(Policy(OPTIONS), 0.0, 20.0)
    decision = policy.choose(0.0)
    assert 100.0 <= decision.patience_ms <= 2 * decision.considered[0].latency_ms + HERE.device_ms + 100.0


# ---- pins and bad input


def test_a_pin_is_kept_whatever_happens():
    policy = Policy(OPTIONS, pin="rb8")
    assert policy.choose(0.0).option is LATE
    policy.failed(0.1, "gone")
    told(policy, 0.2, 100.0)
    decision = policy.choose(0.3)
    assert decision.option is LATE
    assert decision.reason == "pinned"
    assert decision.patience_ms is None


def test_a_pin_that_is_no_option_is_refused_with_those_that_are():
    with pytest.raises(UnknownNameError, match="'rb3' does not exist; there are: rb1, rb8, mobile-only"):
        Policy(OPTIONS, pin="rb3")


def test_without_a_whole_network_only_a_pin_is_possible():
    with pytest.raises(UsageError, match="nothing to fall back on"):
        Policy([EARLY, LATE])
    assert Policy([EARLY, LATE], pin="rb1").choose(0.0).option is EARLY
