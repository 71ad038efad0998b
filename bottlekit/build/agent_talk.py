"""Listening to the agent: JSON lines on its standard output, whichever way they come here.

::

    {"event": "progress", "message": ...}   --> `say`
    {"event": "begun", "profile": ...}      --> `partial`
    {"event": "measured", "entry": ..., "phase": ..., "result": ...}   --> `partial`
    {"event": "answer", "answer": ...}      --> `answer()`
    {"event": "error", "kind": ...}         --> raised by `answer()`, as it was raised there
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bottlekit.device.errors import error_from_words
from bottlekit.errors import EngineError


class AgentTalk:
    """One conversation: hand it each line with `take`, and ask for the `answer` when the agent has ended.

    `messages` are all lines of progress so far; `partial` is the profile of what was measured so far, None before
    anything was.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last: dict[str, Any] = {}
        self._begun: dict[str, Any] | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self.messages: list[str] = []

    @property
    def partial(self) -> dict[str, Any] | None:
        """The profile, marked as interrupted, with the phases that were measured."""
        return {**self._begun, "bundles": list(self._entries.values())} if self._begun and self._entries else None

    def take(self, line: str) -> None:
        """One line of the agent's standard output."""
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            return
        self._last = event
        if event.get("event") == "progress":
            self.messages.append(str(event.get("message")))
            self._say(self.messages[-1])
        elif event.get("event") == "begun":
            self._begun = event["profile"]
        elif event.get("event") == "measured":
            entry = self._entries.setdefault(event["entry"]["bundle"]["name"], {**event["entry"], "phases": {}})
            entry["phases"][event["phase"]] = event["result"]

    def answer(self, where: str, status: int, stderr: str) -> dict[str, Any]:
        """What the agent answered. Its own error is raised as it was there; EngineError where it told none.

        `where` is who it is for people; `status` and `stderr` how its process ended.
        """
        if self._last.get("event") == "error":
            raise error_from_words(str(self._last.get("kind")), str(self._last.get("message")))
        answer = self._last.get("answer")
        if self._last.get("event") != "answer" or not isinstance(answer, dict):
            lines = [line.strip() for line in stderr.splitlines() if line.strip()]
            said = f": {lines[-1]}" if lines else ""
            raise EngineError(f"{where}: the agent ended with code {status} and no answer{said}")
        return answer
