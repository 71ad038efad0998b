"""What a link and two machines take now, from what they took lately. No clock: the caller says when it was."""

from typing import Optional

# What a link may be like before anything was heard of it, and how sure that is: not at all.
_FIRST_RTT_MS = 20.0
_FIRST_MS_PER_BYTE = 0.004
_MOST_MS_PER_BYTE = 1e4
# How far, as a fraction, a round trip and a rate wander in a second.
_WANDER = 0.02
# Times of one size scatter by this fraction of what they take, and by this much at least.
_SCATTER = 0.1
_LEAST_SCATTER_MS = 0.3
# Beyond so many deviations a time is no scatter: once it may be a single slow packet, twice the link has changed.
_SURPRISE = 3.0
# How much of a delay may be the round trip's.
_MOST_RTT_SHARE = 0.3


class LinkEstimate:
    """The round trip of nothing and the time of a byte, from any mixture of requests and pings.

        network time = rtt + bytes * time of a byte + scatter

    A Kalman filter of these two numbers: a small ping tells of the round trip, a padded one of the rate, a request
    of both as far as its size allows, and each counts as much as it can say. A time that does not fit is believed
    only in part the first time, since one packet may be late; after the second in a row in the same direction what
    was known before hardly counts, so a step of the link is followed after two requests.
    """

    def __init__(self) -> None:
        self.rtt_ms = _FIRST_RTT_MS
        self.ms_per_byte = _FIRST_MS_PER_BYTE
        self.samples = 0
        self.suspicious = False
        self._variance_rtt = (10 * _FIRST_RTT_MS) ** 2
        self._variance_byte = (10 * _FIRST_MS_PER_BYTE) ** 2
        self._covariance = 0.0
        self._direction = 0
        self._surprise_bytes = 0.0
        self._at_s: Optional[float] = None

    @property
    def uplink_mbps(self) -> float:
        """The rate in Mbit/s."""
        return 8e-3 / self.ms_per_byte

    def observe(self, now_s: float, size_bytes: float, network_ms: float) -> None:
        """So many bytes went there and an answer came back within this time, what the server did left out."""
        self._wander(now_s)
        expected_ms = self.rtt_ms + size_bytes * self.ms_per_byte
        error_ms = network_ms - expected_ms
        scatter = max(_LEAST_SCATTER_MS, _SCATTER * expected_ms) ** 2
        if self.samples >= 2 and error_ms**2 > _SURPRISE**2 * (self._spread(size_bytes) + scatter):
            error_ms = self._surprised(size_bytes, expected_ms, error_ms, scatter)
        elif size_bytes >= 0.5 * self._surprise_bytes:
            # A short message that fits says nothing of the rate, which a long one has cast doubt on.
            self.suspicious, self._direction, self._surprise_bytes = False, 0, 0.0
        self._correct(size_bytes, error_ms, scatter)
        self.samples += 1

    def _wander(self, now_s: float) -> None:
        if self._at_s is not None:
            # Time that went backwards tells nothing.
            elapsed_s = min(max(now_s - self._at_s, 0.0), 60.0)
            self._variance_rtt += (_WANDER * max(self.rtt_ms, 1.0)) ** 2 * elapsed_s
            self._variance_byte += (_WANDER * self.ms_per_byte) ** 2 * elapsed_s
        self._at_s = now_s

    def _spread(self, size_bytes: float) -> float:
        """The variance of the expected time."""
        return self._variance_rtt + size_bytes * (2 * self._covariance + size_bytes * self._variance_byte)

    def _surprised(self, size_bytes: float, expected_ms: float, error_ms: float, scatter: float) -> float:
        """Make room for a change; returns how much of the error to believe."""
        direction = 1 if error_ms > 0 else -1
        again, self._direction, self.suspicious = self._direction == direction, direction, True
        self._surprise_bytes = size_bytes
        if not again:
            limit_ms: float = _SURPRISE * (self._spread(size_bytes) + scatter) ** 0.5
            return direction * limit_ms
        # Each of the two may have changed in proportion to its share of the time, but a slower link is the likelier
        # one: and whoever sends less for it finds out if it was not, which more of the same size never tells.
        rtt_share = self.rtt_ms / expected_ms
        if error_ms > 0:
            rtt_share = min(rtt_share, _MOST_RTT_SHARE)
        self._variance_rtt += (error_ms * rtt_share) ** 2
        if size_bytes >= 1.0:
            self._variance_byte += (error_ms * (1.0 - rtt_share) / size_bytes) ** 2
        return error_ms

    def _correct(self, size_bytes: float, error_ms: float, scatter: float) -> None:
        total = self._spread(size_bytes) + scatter
        with_rtt = self._variance_rtt + size_bytes * self._covariance
        with_byte = self._covariance + size_bytes * self._variance_byte
        self.rtt_ms = max(self.rtt_ms + with_rtt / total * error_ms, 1e-3)
        # A byte never takes less than a thousandth of what it took: a rate has no zero to fall through.
        least = max(1e-3 * self.ms_per_byte, 1e-9)
        self.ms_per_byte = min(max(self.ms_per_byte + with_byte / total * error_ms, least), _MOST_MS_PER_BYTE)
        self._variance_rtt -= with_rtt**2 / total
        self._variance_byte -= with_byte**2 / total
        self._covariance -= with_rtt * with_byte / total


class Factor:
    """By how much load stretches profiled times: a moving average, of which one slow answer moves but a part."""

    GAIN = 0.3
    _STEP = 4.0

    def __init__(self) -> None:
        self.value = 1.0

    def observe(self, ratio: float) -> None:
        """It took `ratio` times what was profiled."""
        bounded = min(max(ratio, self.value / self._STEP), self.value * self._STEP)
        self.value += self.GAIN * (bounded - self.value)


class ServerLoad(Factor):
    """The server's factor, from answers, and from pings while nothing is asked of it.

    What an answer took is the truth. A ping only tells how many requests are at work there; what each of them costs
    is learned from answers, and is one full share until then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_work = 0
        self._share = 1.0

    def observe_answer(self, ratio: float) -> None:
        """An answer took `ratio` times what was profiled."""
        self.observe(ratio)
        if self.at_work:
            self._share += self.GAIN * (min(max((self.value - 1.0) / self.at_work, 0.0), 1.0) - self._share)

    def observe_ping(self, at_work: int, answered_lately: bool) -> None:
        """So many requests are at work or wait there; it counts unless an answer told more, lately."""
        self.at_work = at_work
        if not answered_lately:
            self.observe(1.0 + self._share * at_work)
