"""A phase measured in a process of its own: listening to that process."""

import subprocess
import sys

from bottlekit.device import bench_apart

# Ends its standard output, and itself only when there is a certain file.
_WORKER = """
import os, sys, time
os.write(1, sys.stdin.read().encode())
os.close(1)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os.write(2, b"x")
"""


def test_a_worker_that_ends_slowly_is_heard_to_its_end(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_apart, "_LOOK_S", 0.05)
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path / "go")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    heard = bench_apart._Heard(worker, {"phase": "head"})
    assert heard.whole(0.3) == (b"", b"")
    (tmp_path / "go").write_text("")
    assert heard.whole() == (b'{"phase": "head"}', b"x")
    assert worker.returncode == 0
