"""Ctrl-C between two steps instead of anywhere.

Python raises KeyboardInterrupt wherever the program happens to be, also where an exception is lost: torch's batch
iterators run Python code while they are destroyed. So the loop notes the wish and stops after the step.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Interrupt:
    """A `with` around a loop that calls `raise_if_asked` between its steps. A second Ctrl-C interrupts at once.

    Outside the main thread, which alone receives signals, it does nothing.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.asked = False
        self._say = say
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def raise_if_asked(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed since the `with` began."""
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, signal_number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)
        self._say("stopping after this step; Ctrl-C once more stops at once")
