"""Keeping bounds while images come: the threshold before each image, from what the images before it took.

    what an image takes here, what sending one adds ---+
    the bounds: bytes, mean latency, deadline, load ---+--largest_share--> share --balance--> threshold of the curve
                                                                             ^
    who was sent so far -----------------------------------------------------+

The curve in the bundle says which threshold offloads which share, on the images of its data set. Those that come
may be harder: the balance is what was allowed so far less what was sent, and it moves the share, up to letting
every image leave. So whatever comes, no more than `BURST` images too many are sent, and the one after them.

An image's label is not known here, and its logits only through who was sent.
"""

import time
from typing import Any, Callable, Optional

from .early_exit import EarlyExit, Exit, ExitAnswer
from .exit_policy import Bounds, Costs, largest_share, latency_ms, threshold_within
from .exit_rules import threshold_range

# Over how many images a balance is evened out, and how many images too many or too few it may come to.
_WINDOW = 32.0
BURST = 8.0
# How much of an estimate the newest value is; of its scatter as well (TCP's estimate of round trips, RFC 6298).
_NEWEST, _NEWEST_SCATTER = 0.125, 0.25
# What an estimate of sending loses with every image while none may be sent: a link that recovered is tried again.
_FADING = 0.98


class Estimate:
    """A mean that follows what is observed, and how far it scatters; None before the first value."""

    def __init__(self) -> None:
        self.value: Optional[float] = None
        self.scatter = 0.0

    def observe(self, value: float) -> None:
        """Take a new value in."""
        if self.value is None:
            self.value = value
            return
        self.scatter += _NEWEST_SCATTER * (abs(value - self.value) - self.scatter)
        self.value += _NEWEST * (value - self.value)

    def fade(self) -> None:
        """Believe a little less in it."""
        if self.value is not None:
            self.value *= _FADING
            self.scatter *= _FADING


class ExitControl:
    """The threshold for each image under `bounds`: `threshold()` before it, `told(answer)` after it.

    What sending an image took at export is believed until one was sent. Without a rate of images a bound
    on the server's load takes the rate at which `threshold` is asked. What no threshold can keep is not an error
    here: then every image leaves that can, and `exit_policy.reached` tells that the bound was not kept.
    """

    def __init__(
        self,
        exit_: Exit,
        classes: int,
        bounds: Bounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bounds = bounds
        self._exit, self._clock = exit_, clock
        low, high = threshold_range(exit_.rule, classes)
        self._everybody = high if exit_.rule == "entropy" else low
        self._head, self._offload, self._interval = Estimate(), Estimate(), Estimate()
        self._payload = Estimate()
        self._balance = 0.0
        self._share = 1.0
        self._asked_at_s: Optional[float] = None

    def threshold(self) -> float:
        """The most accurate threshold that the bounds allow for the next image."""
        now_s = self._clock()
        if self._asked_at_s is not None:
            self._interval.observe(now_s - self._asked_at_s)
        self._asked_at_s = now_s
        self._share = self._share_now()
        allowed = 0.0
        if self._share > 0.0 and self._balance > -BURST:
            allowed = min(max(self._share + self._balance / _WINDOW, 0.0), 1.0)
        chosen = self._everybody
        if allowed > 0.0 and any(1.0 - point["early_share"] <= allowed + 1e-12 for point in self._exit.curve):
            chosen = float(threshold_within(self._exit.curve, allowed)["threshold"])
        return chosen

    def told(self, answer: ExitAnswer) -> None:
        """What the image took for which the threshold was asked last."""
        here_ms = answer.times_ms.get("head", 0.0) + answer.times_ms.get("decide", 0.0)
        took_ms = latency_ms(answer)
        self._head.observe(here_ms)
        if answer.early and self._share <= 0.0:
            self._offload.fade()
        elif not answer.early:
            self._offload.observe(max(took_ms - here_ms, 0.0))
            self._payload.observe(float(answer.payload_bytes))
        self._balance = min(self._balance + self._share - (0.0 if answer.early else 1.0), BURST)

    def _share_now(self) -> float:
        """The largest share under the bounds, by what is believed now; 0 where the head alone is too slow."""
        head_ms = self._head.value or 0.0
        offload_ms = self._offload.value or 0.0
        payload_bytes = self._exit.payload_bytes if self._payload.value is None else self._payload.value
        bounds = self.bounds
        # A deadline is for the slow ones as well.
        slow_ms = head_ms + offload_ms + 2 * self._offload.scatter
        if bounds.deadline_ms is not None and slow_ms > bounds.deadline_ms:
            return 0.0
        for limit_ms in (bounds.latency_ms, bounds.deadline_ms):
            if limit_ms is not None and head_ms > limit_ms:
                return 0.0
        if bounds.server_per_s is not None and bounds.images_per_s is None:
            interval_s = self._interval.value
            rate = 1.0 / interval_s if interval_s else bounds.server_per_s
            bounds = bounds._replace(images_per_s=rate)
        return min(largest_share(bounds, Costs(head_ms, offload_ms, payload_bytes)), 1.0)


def controlled(device: EarlyExit, control: ExitControl, image: Any) -> ExitAnswer:
    """Classify an image, uint8 (h, w, 3), with the threshold that keeps the bounds."""
    device.threshold = control.threshold()
    answer = device.infer_image(image)
    control.told(answer)
    return answer
