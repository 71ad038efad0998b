"""Which split is next: the least predicted latency, changed only for a clear gain, and never a lost server."""

import math
from typing import Dict, List, NamedTuple, Optional

from ..errors import UnknownNameError, UsageError
from .estimate import Factor, LinkEstimate, ServerLoad
from .options import MOBILE_ONLY, Option, Terms, predicted, ranked


class Settings(NamedTuple):
    """How a policy decides; the defaults suit links between 3G and Wi-Fi.

    A change must gain `margin` of the latency in use `confirmations` times in a row, or `clear_margin` once; and
    `least_gain_ms` in any case. A remote answer is waited for `patience` times its prediction and as long as the
    whole network takes here, `least_patience_ms` at least. A lost server is pinged after `first_retry_s`, and then
    whenever it has been away for `retry_growth` longer, `longest_retry_s` at most; one that answers pings and no
    requests gets one after a pause twice as long each time. A ping goes out when nothing was heard for `probe_s`; a
    padded one fills the link for about `padding_ms`.
    """

    margin: float = 0.05
    clear_margin: float = 0.2
    confirmations: int = 2
    least_gain_ms: float = 0.1
    patience: float = 2.0
    least_patience_ms: float = 100.0
    first_retry_s: float = 0.5
    longest_retry_s: float = 10.0
    retry_growth: float = 0.25
    probe_s: float = 2.0
    padding_ms: float = 20.0
    least_padding_bytes: int = 256
    most_padding_bytes: int = 32768


class Decision(NamedTuple):
    """What to do with an image, why, and what each option was predicted to take, best first.

    `terms_ms` are the chosen option's. `patience_ms` is how long to wait for the server; None where none takes
    part.
    """

    option: Option
    reason: str
    terms_ms: Dict[str, float]
    considered: List[Terms]
    patience_ms: Optional[float]


class Policy:
    """Picks an option for every request; told what happened, it learns. Pure: the caller says what time it is.

    ::

        pinged, answered, ran_here --> estimates of link, server, device --predicted, ranked--> choose --> Decision
        failed --> mobile-only until a ping came through and the pause is over; pauses double until an answer comes

    `pin` is the name of the one option to use whatever happens. Raises UnknownNameError for a pin that is no
    option, UsageError without a mobile-only option to fall back on.
    """

    def __init__(
        self, options: List[Option], settings: Optional[Settings] = None, pin: Optional[str] = None
    ) -> None:
        names = [option.name for option in options]
        if pin is not None and pin not in names:
            raise UnknownNameError("split", pin, names, "Choose one of these with --pin.")
        if MOBILE_ONLY not in names and pin is None:
            raise UsageError("without a whole network there is nothing to fall back on; pin a split, or add one")
        self.options = list(options)
        self.settings = settings or Settings()
        self.pin = pin
        self.link = LinkEstimate()
        self.server = ServerLoad()
        self.device = Factor()
        self.switches = 0
        self.why_lost: Optional[str] = "no server was heard of yet"
        self._current: Optional[str] = None
        self._wished: Optional[str] = None
        self._wishes = 0
        self._failures = 0
        self._retry_at_s = 0.0
        self._heard_after_loss = False
        self._deaf_since_s: Optional[float] = None
        self._unheard = 0
        self._heard_at_s: Optional[float] = None
        self._answered_at_s: Optional[float] = None
        self._padded_at_s: Optional[float] = None
        # Since when requests took other times than expected, and no padded ping has told why.
        self._doubted_at_s: Optional[float] = None

    def choose(self, now_s: float) -> Decision:
        """The option for a request that starts now."""
        found = ranked(self._predicted(option) for option in self.options)
        by_name = {one.option.name: one for one in found}
        if self.pin is not None:
            return self._decided(by_name[self.pin], found, "pinned")
        here = by_name[MOBILE_ONLY]
        if self.why_lost is not None and not (self._heard_after_loss and now_s >= self._retry_at_s):
            return self._decided(here, found, "the server is lost: " + self.why_lost)
        best = found[0]
        current = by_name.get(self._current or "")
        if current is None:
            return self._decided(best, found, "least predicted latency")
        if best.option.name == current.option.name:
            self._wished = None
            return self._decided(best, found, "least predicted latency")
        return self._weighed(current, best, found)

    def pinged(
        self, now_s: float, size_bytes: float, round_trip_ms: float, at_work: int, crossed: bool = False
    ) -> None:
        """A ping of so many bytes came back; `at_work` requests are at work or wait at the server.

        `crossed`: it shared the link with a request.
        """
        self._heard(now_s)
        self._heard_after_loss = True
        padded = size_bytes >= self.settings.least_padding_bytes
        if padded:
            self._padded_at_s = now_s
        lately = self._answered_at_s is not None and now_s - self._answered_at_s < 2 * self.settings.probe_s
        self.server.observe_ping(at_work, lately)
        told = self._observe(now_s, size_bytes, round_trip_ms, crossed)
        if padded and told and not self.link.suspicious:
            self._unheard, self._doubted_at_s = 0, None
        if self.why_lost is not None and not self._failures:
            self.why_lost = None

    def answered(
        self,
        now_s: float,
        option: Option,
        size_bytes: float,
        network_ms: float,
        device_ms: float,
        server_ms: float,
        crossed: bool = False,
    ) -> None:
        """The server answered: the round trip without the server's own time, this device's time, the server's.

        `crossed`: the request shared the link with a ping.
        """
        self._heard(now_s)
        self._answered_at_s = now_s
        self._failures, self.why_lost = 0, None
        self._observe(now_s, size_bytes, network_ms, crossed)
        if self.link.suspicious and self._doubted_at_s is None:
            self._doubted_at_s = now_s
        self.device.observe(device_ms / option.device_ms)
        if option.server_ms is not None:
            self.server.observe_answer(server_ms / option.server_ms)

    def ran_here(self, option: Option, device_ms: float) -> None:
        """The whole network ran on this device."""
        self.device.observe(device_ms / option.device_ms)

    def left_early(self, option: Option, device_ms: float) -> None:
        """An exit answered: the head ran, nothing was sent. Encoding, which is missing, is a small part."""
        self.device.observe(device_ms / option.device_ms)

    def expect(self, name: str, offload_share: float) -> None:
        """Which share of images the option of this name sends, 0..1."""
        self.options = [
            option._replace(offload_share=offload_share) if option.name == name else option
            for option in self.options
        ]

    def failed(self, now_s: float, why: str) -> None:
        """A request was not answered, or not in time: leave the server alone for a while."""
        self._failures += 1
        pause_s = self.settings.first_retry_s * 2.0 ** min(self._failures - 1, 30)
        self._retry_at_s = now_s + min(pause_s, self.settings.longest_retry_s)
        self.why_lost = why
        self._heard_after_loss = False
        self._wished = None

    def ping_failed(self, now_s: float, why: str) -> None:
        """A ping was not answered: the next one goes out after a pause, the longer the longer nothing is heard."""
        if self._deaf_since_s is None:
            self._deaf_since_s = now_s
        self._heard_at_s = now_s
        self._unheard += 1
        self.why_lost = why
        self._heard_after_loss = False

    def probe_wait_s(self, now_s: float) -> float:
        """In how many seconds a probe is due."""
        if self._heard_at_s is None:
            return 0.0
        settings = self.settings
        due_s = self._heard_at_s + settings.probe_s
        if self._padded_at_s is not None:
            due_s = min(due_s, self._padded_at_s + 2 * settings.probe_s)
        # A surprise and a loss are looked into soon: a ping from the background keeps nobody waiting.
        if self._deaf_since_s is not None:
            pause_s = max(settings.retry_growth * (self._heard_at_s - self._deaf_since_s), settings.first_retry_s)
            due_s = self._heard_at_s + min(pause_s, settings.longest_retry_s)
        elif self.link.suspicious or (self.why_lost is not None and not self._heard_after_loss):
            due_s = self._heard_at_s + settings.first_retry_s
        if self._doubted_at_s is not None and self._deaf_since_s is None:
            again_s = -math.inf if self._padded_at_s is None else self._padded_at_s + settings.first_retry_s
            due_s = min(due_s, max(self._doubted_at_s, again_s))
        return max(due_s - now_s, 0.0)

    def padding_bytes(self) -> int:
        """How long a padded ping is to be, to tell the rate and not to fill the link.

        Where pings or requests were lost the rate may be far less than was thought, and a long ping would be lost
        again, or hold up what comes behind it: each is shorter, until the rate is known.
        """
        doubts = self._unheard + (self._doubted_at_s is not None or self.why_lost is not None)
        wanted = min(self.settings.padding_ms / self.link.ms_per_byte, self.settings.most_padding_bytes)
        return int(max(wanted / 8.0 ** min(doubts, 10), self.settings.least_padding_bytes))

    def _heard(self, now_s: float) -> None:
        self._heard_at_s = now_s
        self._deaf_since_s = None

    def _observe(self, now_s: float, size_bytes: float, network_ms: float, crossed: bool) -> bool:
        """Tell the estimate, unless it would learn nothing; whether it was told.

        What shared the link says that alone it would have taken no longer, and how much less nobody knows.
        """
        if crossed and network_ms > self.link.rtt_ms + size_bytes * self.link.ms_per_byte:
            return False
        self.link.observe(now_s, size_bytes, network_ms)
        return True

    def _predicted(self, option: Option) -> Terms:
        return predicted(option, self.link.rtt_ms, self.link.ms_per_byte, self.device.value, self.server.value)

    def _weighed(self, current: Terms, best: Terms, found: List[Terms]) -> Decision:
        """Stay, or change: whether the gain is worth it, and no fluke."""
        settings = self.settings
        gain_ms = current.latency_ms - best.latency_ms
        gain = gain_ms / current.latency_ms
        percent = "{} would gain {:.0f} %".format(best.option.name, 100 * gain)
        if gain < settings.margin or gain_ms < settings.least_gain_ms:
            self._wished = None
            return self._decided(current, found, "kept: {}, too little for a change".format(percent))
        self._wishes = self._wishes + 1 if self._wished == best.option.name else 1
        self._wished = best.option.name
        if gain < settings.clear_margin and self._wishes < settings.confirmations:
            return self._decided(current, found, "kept: {}, to be confirmed".format(percent))
        words = "changed from {}: {:.0f} % less predicted latency".format(current.option.name, 100 * gain)
        return self._decided(best, found, words)

    def _decided(self, terms: Terms, found: List[Terms], reason: str) -> Decision:
        option = terms.option
        if self._current is not None and self._current != option.name:
            self.switches += 1
            self._wished = None
        self._current = option.name
        return Decision(option, reason, terms.terms_ms, found, self._patience_ms(terms, found))

    def _patience_ms(self, terms: Terms, found: List[Terms]) -> Optional[float]:
        """How long to wait before the whole network runs here after all; None: a pinned split just waits."""
        if not terms.option.is_remote or self.pin is not None:
            return None
        here_ms = next(one.latency_ms for one in found if one.option.name == MOBILE_ONLY)
        # The image that waits was sent, however few are.
        sent = self._predicted(terms.option._replace(offload_share=1.0))
        network_ms = sent.latency_ms - sent.terms_ms["device"]
        return max(self.settings.patience * network_ms + here_ms, self.settings.least_patience_ms)
