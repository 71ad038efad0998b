"""Power mode and clocks are restored whatever happens: with doubles of the commands, and processes really ended."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bottlekit.device.children import child_environment
from bottlekit.device.conditions import power_mode_words
from bottlekit.device.errors import TargetError
from bottlekit.device.power_mode import ending_on_signals, power_mode

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from jetson_double import SET, UNTOUCHED, Board

MEASURE = """
import sys, time
from bottlekit.device.power_mode import ending_on_signals, power_mode
with ending_on_signals(), power_mode(0, lock_clocks=True) as told:
    print("measuring", flush=True)
    time.sleep(float(sys.argv[1]))
print("done", flush=True)
"""


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "{}{}{}".format(tmp_path, os.pathsep, os.environ["PATH"]))
    return Board(tmp_path)


def test_it_is_set_for_the_block_and_restored_in_reverse(board):
    with power_mode(0, lock_clocks=True) as told:
        assert board.state == SET
        assert told == {
            "before": {"name": "MODE_3", "number": 3},
            "during": {"name": "MODE_0", "number": 0},
            "clocks_locked": True,
        }
    assert board.state == UNTOUCHED
    assert board.changes == [
        "nvpmodel -m 0",
        "jetson_clocks --store",
        "jetson_clocks ",
        "jetson_clocks --restore",
        "nvpmodel -m 3",
    ]


def test_a_mode_that_is_set_already_is_left_alone(board):
    with power_mode(3) as told:
        assert told["before"] == told["during"]
    assert board.changes == []


def test_nothing_asked_for_is_nothing_done(board):
    with power_mode() as told:
        assert told == {"clocks_locked": False}
    assert board.changes == []


def test_only_the_clocks(board):
    with power_mode(lock_clocks=True):
        assert board.state == ("3", "locked")
    assert board.state == UNTOUCHED


def test_it_is_restored_after_an_error(board):
    with pytest.raises(ZeroDivisionError):
        with power_mode(0, lock_clocks=True):
            raise ZeroDivisionError
    assert board.state == UNTOUCHED


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("refuse", r"was not set: nvpmodel -m 0 failed: Error: must be root; .* sudo nvpmodel -m 0"),
        ("reboot", r"was not set: the power mode is 3 still; mode 0 does not exist here or needs a reboot"),
        ("refuse-clocks", r"was not set: jetson_clocks --store .* failed: Error: run as root"),
    ],
)
def test_what_cannot_be_set_is_refused_and_half_of_it_taken_back(board, file, words):
    board.has(file)
    with pytest.raises(TargetError, match=words):
        with power_mode(0, lock_clocks=True):
            raise AssertionError("the block must not begin")
    assert board.state == UNTOUCHED


def test_a_machine_without_the_commands_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="there is no nvpmodel here: only a Jetson has it"):
        with power_mode(0):
            pass
    assert power_mode_words() is None


def test_a_mode_that_nobody_tells_is_not_changed(board):
    (board.folder / "mode").write_text("?\n")
    with pytest.raises(TargetError, match="nvpmodel -q does not tell the power mode: NV Power Mode: MODE_"):
        with power_mode(0):
            pass
    assert board.changes == []


def test_what_cannot_be_restored_is_an_error_that_says_what_to_type(board):
    with pytest.raises(TargetError, match=r"was not restored: nvpmodel -m 3 failed: .* sudo nvpmodel -m 3"):
        with power_mode(0, lock_clocks=True):
            board.has("refuse")
    # The clocks all the same.
    assert board.state == ("0", "as they were")


def test_the_mode_as_the_board_tells_it(board):
    assert power_mode_words() == "NV Power Mode: MODE_3 3"


# Processes that are really ended


def measure(seconds):
    return subprocess.Popen(
        [sys.executable, "-c", MEASURE, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
        # A session of its own: what is sent to its group reaches it as Ctrl-C of a terminal would.
        start_new_session=True,
    )


def settled(board, wanted, seconds=60.0):
    """Wait for a state, and see that it stays."""
    deadline = time.time() + seconds
    while board.state != wanted and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    assert board.state == wanted, board.changes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_it_is_restored_when_the_process_is_ended(board, number):
    process = measure(60)
    assert process.stdout.readline() == b"measuring\n"
    assert board.state == SET
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=120)
    assert out == b""
    assert process.returncode == (-number if number in (signal.SIGKILL, signal.SIGINT) else 128 + number) or (
        number == signal.SIGINT and process.returncode in (1, 130)
    )
    settled(board, UNTOUCHED)


# Setting and restoring take about 0.6 s here, so that every moment of them is met.
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("after_s", [0.0, 0.15, 0.3, 0.5, 0.7, 0.9, 1.1])
def test_it_is_restored_at_any_moment(tmp_path, monkeypatch, number, after_s):
    monkeypatch.setenv("PATH", "{}{}{}".format(tmp_path, os.pathsep, os.environ["PATH"]))
    board = Board(tmp_path, pause=0.2)
    process = measure(0.1)
    time.sleep(after_s)
    os.killpg(process.pid, number)
    process.communicate(timeout=120)
    settled_and_quiet(board)


def settled_and_quiet(board, seconds=60.0):
    """Wait until all is as it was and nothing happens any more."""
    deadline = time.time() + seconds
    seen, since = board.changes, time.time()
    while board.state != UNTOUCHED or time.time() - since < 0.6:
        assert time.time() < deadline, seen
        time.sleep(0.05)
        if board.changes != seen:
            seen, since = board.changes, time.time()


def test_a_second_interrupt_does_not_stop_the_restoring(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "{}{}{}".format(tmp_path, os.pathsep, os.environ["PATH"]))
    board = Board(tmp_path, pause=0.2)
    process = measure(60)
    assert process.stdout.readline() == b"measuring\n"
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    process.communicate(timeout=120)
    settled(board, UNTOUCHED)


def send_to_itself(number):
    os.kill(os.getpid(), number)
    time.sleep(1.0)


def test_signals_are_as_they_were_behind_the_block():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with ending_on_signals():
        with pytest.raises(SystemExit) as ended:
            send_to_itself(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_the_guard_does_nothing_when_nobody_asks():
    guard = [sys.executable, "-m", "bottlekit.device.power_mode_guard"]
    done = subprocess.run(guard, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=child_environment())
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_guard_answers_in_lines_of_json(board):
    guard = subprocess.run(
        [sys.executable, "-m", "bottlekit.device.power_mode_guard"],
        input=b'{"mode": 0, "lock_clocks": false}\n',
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    lines = [json.loads(line) for line in guard.stdout.splitlines()]
    assert [sorted(line) for line in lines] == [["before", "clocks_locked", "during"], ["failed"]]
    assert board.state == UNTOUCHED
