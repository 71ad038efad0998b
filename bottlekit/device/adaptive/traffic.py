"""What else was on the link while a message was: two messages at once take each other's time."""

import contextlib
import threading
from typing import Iterator


class Message:
    """One message and its answer; `crossed` whether another was under way at any moment in between."""

    def __init__(self, crossed: bool) -> None:
        self.crossed = crossed


class Traffic:
    """All messages of a client's connections, which share one link. For any number of threads.

    A ping that waits behind a payload takes that payload's time, and would be taken for a long round trip; and a
    payload that waits behind a padded ping for a slow rate.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._under_way = 0

    @contextlib.contextmanager
    def message(self) -> Iterator[Message]:
        """For the length of the `with` block a message is under way; what it yields is complete at its end."""
        with self._changed:
            message = Message(self._under_way > 0)
            self._begun += 1
            self._under_way += 1
            mine = self._begun
        try:
            yield message
        finally:
            with self._changed:
                message.crossed = message.crossed or self._begun != mine
                self._under_way -= 1
                self._changed.notify_all()

    def wait_for_quiet(self, timeout_s: float) -> bool:
        """Until nothing is under way, or the time is over; whether it is quiet."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, timeout_s)
