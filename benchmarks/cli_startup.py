"""How long `bottlekit` takes to start, against a Python that does nothing.

Each round starts every command once, in an order that moves on by one each round. The first round fills the
file cache and is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from record import record

from bottlekit.device.stats import summary

CLAIM = "bottlekit starts in under 300 ms"
LIMIT_MS = 300.0
BARE = "python -c pass"
COMMANDS = {
    BARE: ["-c", "pass"],
    "bottlekit --version": ["-m", "bottlekit", "--version"],
    "bottlekit --help": ["-m", "bottlekit", "--help"],
    "bottlekit plan --help": ["-m", "bottlekit", "plan", "--help"],
}


def start_ms(arguments: list[str]) -> float:
    """Start a process, wait for its end, in ms."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="how often each command is started")
    rounds = parser.parse_args().rounds

    names = list(COMMANDS)
    samples_ms: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            elapsed = start_ms(COMMANDS[name])
            if number:
                samples_ms[name].append(elapsed)

    figures = {name: summary(samples) for name, samples in samples_ms.items()}
    bare_ms = figures[BARE]["p50_ms"]
    for name, figure in figures.items():
        within = (
            "" if name == BARE else f", {'within' if figure['p50_ms'] < LIMIT_MS else 'ABOVE'} {LIMIT_MS:.0f} ms"
        )
        print(f"{name:24} p50 {figure['p50_ms']:6.1f} ms, {figure['p50_ms'] / bare_ms:5.1f} x bare Python{within}")
    result = {
        "limit_ms": LIMIT_MS,
        "ratio_to_bare_python": {name: figure["p50_ms"] / bare_ms for name, figure in figures.items()},
        "summary": figures,
        "samples_ms": samples_ms,
    }
    print(f"recorded in {record(CLAIM, result)}")


if __name__ == "__main__":
    main()
