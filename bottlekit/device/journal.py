"""What a server tells its operator: a line for people, and the same as fields for machines."""

import contextlib
from typing import Any, Callable, Dict

Note = Callable[[Dict[str, Any]], None]


class Journal:
    """Every event goes to both: `say` gets one line of words, `note` a flat object with "event" and "message".

    A log that cannot be written, on a full disk for one, is no reason to stop serving: the event is lost, no more.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None, note: Note = lambda fields: None) -> None:
        self._say = say
        self._note = note

    def write(self, event: str, message: str, **fields: Any) -> None:
        """Tell of one event; `fields` are what a program would look for in the message."""
        with contextlib.suppress(OSError):
            self._say(message)
        self.note(event, message, **fields)

    def note(self, event: str, message: str, **fields: Any) -> None:
        """Tell machines only: what happens too often for people."""
        with contextlib.suppress(OSError):
            self._note(dict(fields, event=event, message=message))
