"""`python3 bottlekit-agent.pyz VERB`: bottlekit on a device, one file, Python 3.6.

    facts    what this machine is: TensorRT, GPU, CUDA, JetPack     compare  engines with the golden outputs
    doctor   what it lacks, and what to type                        bench    how long each phase takes
    build    one build job, in a process of its own                 meters   what here can measure power
    infer    the head here, the tail on a server

Standard output is for programs: one JSON object a line, {"event": "progress", "message": ...} and at the end
{"event": "answer", "answer": ...} or {"event": "error", "kind": ..., "message": ...}. Errors are also one line on
standard error; the exit status is 0, 1 (it failed) or 2 (it was asked wrongly).

No numpy is imported before it was seen to work: a broken one ends the process (`Illegal instruction` on a Jetson).
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, List, NoReturn

from .. import __version__
from .build_answer import install_engine
from .build_supervisor import build
from .children import child_environment
from .doctor import report
from .errors import BottlekitError, TargetError, UsageError
from .trt_errors import cause_of_exit

_BUILD_TIMEOUT_S = 3600.0


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("{}; `{} --help` shows what there is".format(message, self.prog))


class Teller:
    """Writes events, one JSON object a line; goes on in silence when nobody listens any more.

    A dropped connection must not end a build: whoever comes back finds it done. A measurement that is only told
    ends with it (`end_when_unheard`): it may have locked the machine's clocks, for half an hour.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._heard = True

    def event(self, event: str, **values: Any) -> None:
        """One event, at once."""
        line = (json.dumps(dict(event=event, **values), allow_nan=False) + "\n").encode("utf-8")
        try:
            while line and self._heard:
                line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            self._heard = False

    def say(self, message: str) -> None:
        """One line of progress."""
        self.event("progress", message=message)

    def end_when_unheard(self) -> None:
        """From now on this process is ended, as by SIGTERM, as soon as nobody can hear it."""
        threading.Thread(target=self._wait_for_silence, daemon=True).start()

    def _wait_for_silence(self) -> None:
        listener = select.poll()
        # Nothing is asked for; that the other end was closed is told all the same.
        listener.register(self._descriptor, 0)
        listener.poll()
        os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: List[str]) -> int:
    """Do one verb; returns the exit status."""
    teller = Teller(os.dup(sys.stdout.fileno()))
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hang-up is to be ignored, and stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        options = _parser().parse_args(arguments)
        # What libraries print to standard output goes to standard error.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        verb: Callable[[Any, Teller], Any] = options.verb
        teller.event("answer", answer=verb(options, teller))
    except BottlekitError as error:
        message = " ".join(str(error).split())
        teller.event("error", kind=type(error).__name__, message=message)
        sys.stderr.write("bottlekit-agent: {}\n".format(message))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("bottlekit-agent: interrupted\n")
        return 130
    return 0


def _end(number: int, _frame: Any) -> None:
    """End as the signal asks, but through the blocks that clean up."""
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bottlekit-agent", description="bottlekit on a device.")
    parser.add_argument("--version", action="version", version="bottlekit-agent " + __version__)
    verbs = parser.add_subparsers(metavar="VERB", title="verbs", parser_class=_Parser)
    verbs.required = True
    verb = _add(verbs, "facts", _facts, "what this machine is, as JSON")
    verb.add_argument("--plugin-library", metavar="FILE", help="where the plugin library lies, if not as usual")
    _add(verbs, "doctor", lambda options, teller: report(), "what this machine lacks, and what to type")

    verb = _add(verbs, "build", _build, "build a job, in a process of its own")
    verb.add_argument("job", metavar="JOB", help="a folder that `bottlekit agent jobs` made")
    verb.add_argument("-o", "--engines", metavar="FOLDER", help="put the engine and its sidecar there")
    verb.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=_BUILD_TIMEOUT_S, help="3600 if not given"
    )

    verb = _add(verbs, "compare", _compare, "run engines on the golden inputs and compare what comes out")
    _add_engines(verb)
    verb.add_argument("--part", action="append", help="head, tail, full or baseline; may be given again")

    verb = _add(verbs, "bench", _bench, "measure how long each phase takes")
    _add_engines(verb)
    verb.add_argument("-o", "--out", metavar="FILE", help="write the profile there, rather than print it")
    verb.add_argument("--phase", action="append", help="head, encode, decode, tail, full or baseline")
    verb.add_argument("--server", metavar="HOST:PORT", help="measure transmit and wait, too, with that server")
    _add_access(verb)
    verb.add_argument("--samples", type=int, help="enough samples of a phase; p99 needs 662")
    verb.add_argument("--seconds", type=float, help="enough time for a phase, if that comes first")
    verb.add_argument("--warm-up", metavar="SECONDS", type=float, help="the most to warm up")
    verb.add_argument("--quick", action="store_true", help="64 samples or 3 seconds a phase; energy of 3 x 10 s")
    verb.add_argument("--threads", type=int, help="for one operator of ONNX Runtime; all cores without it")
    verb.add_argument("--power", action="store_true", help="measure the energy of each phase, too")
    verb.add_argument("--meter", metavar="NAME", help="with --power; without it, the first that works")
    _add_sources(verb)
    verb.add_argument("--power-mode", metavar="N", type=int, help="nvpmodel's mode meanwhile; restored in any case")
    verb.add_argument(
        "--lock-clocks", action="store_true", help="the highest clocks meanwhile; restored in any case"
    )

    _add_no_fused(verb)

    _add_sources(_add(verbs, "meters", _meters, "what here can measure power"))

    verb = _add(verbs, "infer", _infer, "classify images: the head here, the tail on a server")
    verb.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder; its head is enough")
    verb.add_argument("images", metavar="IMAGE", nargs="+")
    verb.add_argument("--server", metavar="HOST:PORT", required=True)
    _add_access(verb)
    verb.add_argument("--engines", metavar="FOLDER", help="run the head's engine; ONNX Runtime without it")
    verb.add_argument("--target", help="whose engine, with --engines")
    _add_no_fused(verb)
    verb.add_argument("--top", type=int, default=5, help="how many classes to tell, best first")
    verb.add_argument("--timeout", metavar="SECONDS", type=float, default=10.0)
    return parser


def _add(verbs: Any, name: str, verb: Callable[[Any, Teller], Any], words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words, description=words)
    parser.set_defaults(verb=verb)
    return parser


def _add_engines(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "bundle", metavar="BUNDLE", help="a bundle, or a folder of bundles; some of the graphs will do"
    )
    verb.add_argument("--engines", metavar="FOLDER", default="engines", help="engines/ if not given")
    verb.add_argument("--target", required=True, help="whose engines")


def _add_access(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--tls", metavar="FOLDER", help="encrypt, and prove who this is: this device's certificate")
    verb.add_argument("--server-name", metavar="NAME", help="the name in the server's certificate, if not HOST")
    verb.add_argument("--token-file", metavar="FILE", help="the token for a server that asks for one")


def _add_no_fused(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-fused",
        dest="fused",
        action="store_false",
        help="quantise on the host, where a head on the GPU could do it in one kernel",
    )


def _add_sources(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--meter-source",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="where meters look, as i2c_bus=1; may be given again",
    )


def _build(options: Any, teller: Teller) -> Any:
    if not 0 < options.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds, not {:g}".format(options.timeout))
    answer = build(options.job, teller.say, options.timeout)
    installed = None if options.engines is None else install_engine(options.job, options.engines)
    return dict(answer, installed=installed)


def _facts(options: Any, teller: Teller) -> Any:
    _require_numpy()
    from .machine import machine_facts

    return machine_facts(plugin_library=options.plugin_library)


def _compare(options: Any, teller: Teller) -> Any:
    _require_numpy()
    from .agent_verbs import compare

    return compare(options, teller.say)


def _bench(options: Any, teller: Teller) -> Any:
    _require_numpy()
    from .agent_verbs import bench

    if options.out is not None:
        return bench(options, teller.say)
    teller.end_when_unheard()
    return bench(options, teller.say, lambda event, fields: teller.event(event, **fields))


def _meters(options: Any, teller: Teller) -> Any:
    _require_numpy()
    from .meters.choose import list_meters
    from .power_options import sources_from_words

    return list_meters(**sources_from_words(options.meter_source))


def _infer(options: Any, teller: Teller) -> Any:
    _require_numpy()
    from .agent_verbs import infer

    return infer(options, lambda result: teller.event("result", **result))


def _require_numpy() -> None:
    """TargetError unless numpy can be imported; found out in another process, which it may end."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import numpy"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    said = child.communicate()[1].decode("utf-8", "replace").split("\n")
    if child.returncode == 0:
        return
    cause = cause_of_exit(child.returncode)
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    raise TargetError(
        "numpy does not work here: {}".format(
            "{}; {}".format(cause.meaning, cause.advice) if cause else "{}; type: pip3 install numpy".format(last)
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
