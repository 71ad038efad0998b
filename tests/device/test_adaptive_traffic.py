"""Which messages shared a link, and when it is quiet."""

import threading

from bottlekit.device.adaptive.traffic import Traffic

PATIENCE_S = 60.0


def test_a_message_alone_crosses_none():
    traffic = Traffic()
    for _ in range(2):
        with traffic.message() as message:
            pass
        assert not message.crossed


def test_both_of_two_at_once_are_crossed_and_the_next_is_not():
    traffic = Traffic()
    with traffic.message() as outer:
        with traffic.message() as inner:
            pass
        assert inner.crossed
    assert outer.crossed
    with traffic.message() as later:
        pass
    assert not later.crossed


def test_one_that_began_before_and_one_that_began_within_count():
    traffic = Traffic()
    first, second, third = traffic.message(), traffic.message(), traffic.message()
    told = [first.__enter__(), second.__enter__()]
    first.__exit__(None, None, None)
    told.append(third.__enter__())
    second.__exit__(None, None, None)
    third.__exit__(None, None, None)
    assert [message.crossed for message in told] == [True, True, True]


def test_a_message_that_failed_is_over():
    traffic = Traffic()
    try:
        with traffic.message():
            raise OSError("the link broke")
    except OSError:
        pass
    assert traffic.wait_for_quiet(0.0)


def test_quiet_is_waited_for_and_not_for_ever():
    traffic = Traffic()
    assert traffic.wait_for_quiet(0.0)
    with traffic.message():
        assert not traffic.wait_for_quiet(0.01)
        found = []
        waiting = threading.Thread(target=lambda: found.append(traffic.wait_for_quiet(PATIENCE_S)))
        waiting.start()
    waiting.join(PATIENCE_S)
    assert found == [True]
