"""A server that is left running under load: its memory stays where it is, and no answer is wrong or lost.

    clients    come, ask some hundred times at their own split, and go: most of them properly, some with a reset,
               some in the middle of a message; another one comes at once
    fleet      is read again every so often, twice in a row now and then, while they ask
    server     a real `bottlekit serve` process: its memory, threads and open files are written down every second

Every answer is checked: its number, and that its logits are those of its own payload and no other. A client that is
refused, not answered, or cut off, ends the run. At the end the server's own count must be what was received, and at
most the requests more that clients no longer waited for when they went.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from load import WrongAnswerError, answer_from_frame, frame_from, greeted, message, questions_of, serving
from record import record

from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.wire.addresses import address_from_text
from bottlekit.device.wire.answers import logits_from_answer
from bottlekit.device.wire.tls import client_context
from bottlekit.report import drawing
from bottlekit.serving import certs
from bottlekit.serving.top import status_from_server

ROOT = Path(__file__).parents[1]
CLAIM = "under load for at least ten minutes a server's memory stays flat, and no answer is wrong or lost"
CLIENTS = 32
REQUESTS_OF_A_CLIENT = 300
# What is left when the first sessions, threads and buffers have been made.
SETTLED = 0.2


class Soak:
    """The clients' side, and what it counted."""

    def __init__(self, bundles: list[Bundle], seed: int, context: ssl.SSLContext | None) -> None:
        self._bundles = bundles
        self._context = context
        self._random = random.Random(seed)
        self._questions = {}
        for bundle in bundles:
            with OnnxRuntimeRunner(bundle.onnx_path("tail"), threads=1, spin=False) as tail:
                self._questions[bundle.name] = questions_of(bundle, tail)
        self.answers = 0
        self.left_unanswered = 0
        self.clients = {"properly": 0, "with a reset": 0, "in the middle of a message": 0}
        self.by_split = dict.fromkeys((bundle.split["name"] for bundle in bundles), 0)

    async def run(self, host: str, port: int, until_s: float) -> None:
        """So many clients at any time, until then. Raises WrongAnswerError, OSError, IncompleteReadError."""
        await asyncio.gather(*(self._one_after_the_other(host, port, until_s) for _ in range(CLIENTS)))

    async def _one_after_the_other(self, host: str, port: int, until_s: float) -> None:
        while time.monotonic() < until_s:
            bundle = self._random.choice(self._bundles)
            reader, writer, offered = await greeted(host, port, self._context)
            numbers = {one.name: number for number, one in enumerate(offered)}
            for turn in range(int(self._random.expovariate(1.0 / REQUESTS_OF_A_CLIENT)) + 1):
                if time.monotonic() >= until_s:
                    break
                await self._ask(reader, writer, bundle, numbers[bundle.name], turn % 100 + 1)
            await self._go(writer, bundle, numbers[bundle.name])

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bundle: Bundle, number: int, turn: int
    ) -> None:
        questions = self._questions[bundle.name]
        which = self._random.randrange(len(questions.all))
        writer.write(message("infer", turn, number, questions.all[which].payload, 0, None))
        answer = answer_from_frame(await frame_from(reader), turn)
        logits: np.ndarray = logits_from_answer(answer, len(bundle.classes))[1]
        if not questions.is_answer(which, logits):
            raise WrongAnswerError(f"a client of {bundle.name} got logits that are not those of its payload")
        self.answers += 1
        self.by_split[bundle.split["name"]] += 1

    async def _go(self, writer: asyncio.StreamWriter, bundle: Bundle, number: int) -> None:
        """End a connection in one of three ways."""
        how = self._random.choices(list(self.clients), weights=(8, 1, 1))[0]
        self.clients[how] += 1
        request = message("infer", 101, number, self._questions[bundle.name].all[0].payload, 0, None)
        if how == "in the middle of a message":
            writer.write(request[: self._random.randrange(1, len(request))])
        elif how == "with a reset":
            writer.write(request)
            self.left_unanswered += 1
            await asyncio.sleep(0)
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def resources(pid: int) -> dict[str, int]:
    """A process's resident memory in KiB, its threads, and its open files."""
    values = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    )
    return {
        "rss_kib": int(values["VmRSS"].split()[0]),
        "threads": int(values["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


async def watch(
    process: Any, pages: tuple[str, int], soak: Soak, begin_s: float, until_s: float, reload_every_s: float
) -> list[dict[str, Any]]:
    """A sample of the server every second; SIGHUP every so often."""
    samples: list[dict[str, Any]] = []
    next_reload_s = begin_s + reload_every_s
    while time.monotonic() < until_s:
        now = time.monotonic()
        if now >= next_reload_s:
            for _ in range(1 + len(samples) % 2):
                process.send_signal(signal.SIGHUP)
            next_reload_s += reload_every_s
        status = await asyncio.get_running_loop().run_in_executor(None, status_from_server, *pages)
        samples.append(
            {
                "at_s": round(now - begin_s, 2),
                **resources(process.pid),
                "answers": soak.answers,
                "connections": status["connections"],
                "reloads": status["reloads"],
            }
        )
        await asyncio.sleep(max(0.0, now + 1.0 - time.monotonic()))
    return samples


async def soaked(
    process: Any, told: dict[str, Any], soak: Soak, seconds: float, reload_every_s: float
) -> list[dict[str, Any]]:
    """Load and watch a server for so long; the samples."""
    begin_s = time.monotonic()
    watching = watch(process, address_from_text(told["http"]), soak, begin_s, begin_s + seconds, reload_every_s)
    samples: list[dict[str, Any]]
    samples, _ = await asyncio.gather(watching, soak.run(told["host"], told["port"], begin_s + seconds))
    return samples


def flatness(samples: list[dict[str, Any]]) -> dict[str, float]:
    """How memory went after it had settled: MiB at its beginning and end (medians of a tenth), MiB an hour."""
    settled = samples[int(len(samples) * SETTLED) :]
    at_s = np.array([one["at_s"] for one in settled])
    mib = np.array([one["rss_kib"] for one in settled]) / 1024
    tenth = max(1, len(mib) // 10)
    return {
        "begin_mib": float(np.median(mib[:tenth])),
        "end_mib": float(np.median(mib[-tenth:])),
        "most_mib": float(mib.max()),
        "mib_per_hour": float(np.polyfit(at_s, mib, 1)[0] * 3600),
    }


def picture(samples: list[dict[str, Any]]) -> drawing.Picture:
    """Memory, threads and open files, and answers, along time."""
    at_min = [one["at_s"] / 60 for one in samples]
    with drawing.style():
        figure = drawing.new_figure(8, 5)
        memory, files, answers = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
        memory.plot(at_min, [one["rss_kib"] / 1024 for one in samples], color=drawing.BLUE)
        memory.set_ylim(bottom=0)
        memory.set_ylabel("MiB")
        memory.set_title("resident memory of a server under load, its open files, answers a second")
        files.plot(at_min, [one["files"] for one in samples], color=drawing.ORANGE, label="open files")
        files.plot(at_min, [one["threads"] for one in samples], color=drawing.PURPLE, label="threads")
        files.set_ylim(bottom=0)
        files.legend(loc="upper right", ncols=2)
        seconds = np.diff([one["at_s"] for one in samples])
        rates = np.diff([one["answers"] for one in samples]) / seconds
        answers.plot(at_min[1:], rates, color=drawing.BLUE)
        answers.set_ylim(bottom=0)
        answers.set_ylabel("1/s")
        answers.set_xlabel("minutes")
        for axes in (memory, files, answers):
            drawing.quiet_grid(axes, "y")
        svg = drawing.svg_from_figure(figure, "soak", "memory, open files and answers of a server under load")
    return drawing.Picture("A server under load", "Measured.", svg, figure)


def main() -> None:
    """Load, watch, check, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "fleet", nargs="?", type=Path, default=ROOT / "tests/data/tiny_fleet", help="what is served"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--reload-every", type=float, default=20.0, help="seconds between two SIGHUPs")
    parser.add_argument("--threads", type=int, default=1, help="threads for one tail")
    parser.add_argument("--seed", type=int, default=0, help="of the clients")
    parser.add_argument("--tls", action="store_true", help="with certificates on both sides")
    parser.add_argument("--svg", type=Path, default=None, help="where to draw; docs/soak.svg without --tls")
    parser.add_argument("--png", type=Path, default=None, help="the same as pixels")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        words: list[object] = ["--http", "127.0.0.1:0", "--threads", options.threads]
        context = None
        if options.tls:
            pki = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pki"
            certs.init_authority(pki)
            words += ["--tls", certs.issue(pki, "server", "lab", ("localhost",))]
            context = client_context(str(certs.issue(pki, "device", "soak")))
        soak = Soak(fleet_from_path(str(options.fleet)), options.seed, context)
        process, told = stack.enter_context(serving(options.fleet, *words))
        samples = asyncio.run(soaked(process, told, soak, 60 * options.minutes, options.reload_every))
        time.sleep(1.0)  # those that clients left unanswered are computed all the same
        status = status_from_server(*address_from_text(told["http"]))
    counted = sum(one["answered"] for one in status["splits"].values())
    if not soak.answers <= counted <= soak.answers + soak.left_unanswered or status["refused"]:
        raise SystemExit(f"{soak.answers} answers came, the server counts {counted}, refused {status['refused']}")
    batches = sum(one["batches"] for one in status["splits"].values())
    result: dict[str, Any] = {
        "minutes": options.minutes,
        "tls": options.tls,
        "clients_at_once": CLIENTS,
        "clients": soak.clients,
        "answers": soak.answers,
        "answers_by_split": soak.by_split,
        "left_unanswered": soak.left_unanswered,
        "counted_by_the_server": counted,
        "mean_batch": counted / batches,
        "reloads": status["reloads"],
        "memory": flatness(samples),
        "files": [samples[0]["files"], max(one["files"] for one in samples), samples[-1]["files"]],
        "samples": samples,
    }
    print({name: value for name, value in result.items() if name != "samples"})
    drawn = picture(samples)
    if options.png:
        options.png.write_bytes(drawn.png())
    if options.dry:
        return
    svg = options.svg or (None if options.tls else ROOT / "docs/soak.svg")
    if svg is not None:
        svg.write_text(drawn.svg + "\n", encoding="utf-8")
    print(f"recorded in {record(CLAIM, result, options.threads)}")


if __name__ == "__main__":
    main()
