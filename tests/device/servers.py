"""What the tests of clients and servers share: a server in a thread, and waiting for what is bound to happen.

Nothing here or in those tests depends on how busy the machine is: waits end with what they are for, and only a
server that is broken makes one last PATIENCE_S. Python 3.6 source, like the tests.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time

import numpy as np

from bottlekit.device.server import server_from_fleet

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TINY_FLEET = os.path.join(ROOT, "tests", "data", "tiny_fleet")
# Images that the tiny fleet takes; the fixture `wanted` has their logits.
INPUTS = np.random.RandomState(3).normal(size=(12, 1, 3, 8, 8)).astype(np.float32)
# How long anything may take before it counts as never.
PATIENCE_S = 120.0

_SERVER = """
import signal, sys
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.server import server_from_fleet
with server_from_fleet(fleet_from_path(sys.argv[1]), port=int(sys.argv[2])) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(server.address[1], flush=True)
    server.run()
"""


@contextlib.contextmanager
def serving(bundles, **options):
    """A server for the bundles on a free port, in a thread; `options` are server_from_fleet's."""
    with server_from_fleet(bundles, **dict({"port": 0}, **options)) as server:
        with in_a_thread(server):
            yield server


@contextlib.contextmanager
def in_a_thread(server):
    """`server`, which is open, runs for the length of the `with` block; it must stop when it is told to."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        join(thread)


@contextlib.contextmanager
def server_process(port=0):
    """A server of the tiny fleet in a process of its own; yields (process, port). It is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, TINY_FLEET, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def join(*threads):
    """Wait for threads to end, which they must."""
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def wait_until(condition, what="it"):
    """Wait until `condition()` holds; AssertionError, with `what`, when it never does. Returns what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "{} never happened".format(what)
        time.sleep(0.005)
