from __future__ import annotations

import os
import signal
import threading

import pytest

from bottlekit.training.interrupt import Interrupt


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_waits_for_the_step_and_the_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []
    with Interrupt(said.append) as interrupt:
        interrupt.raise_if_asked()
        _press_ctrl_c()
        assert said == ["stopping after this step; Ctrl-C once more stops at once"]
        with pytest.raises(KeyboardInterrupt):
            interrupt.raise_if_asked()
        with pytest.raises(KeyboardInterrupt):
            _press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before


def test_afterwards_ctrl_c_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt = Interrupt(print)
    interrupt.__enter__()
    assert signal.getsignal(signal.SIGINT) is not before
    interrupt.__exit__(ValueError, ValueError(), None)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_trains_without_it() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Interrupt(print) as interrupt:
                interrupt.raise_if_asked()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []
