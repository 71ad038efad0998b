"""Another machine, and bottlekit's agent on it: what it is, what it lacks, builds and measurements there.

::

    here                              ssh                         there, in ~/.cache/bottlekit/
    pack_agent ---------------------send once---------------->  agent-<hash>/bottlekit-agent.pyz
    job --job_folder_from_job--> job folder --send----------->  jobs/<name>-<hash>/
                                                                  agent build: compile, run, compare with golden
    engine, sidecar, log, timing cache <--fetch, then removed-- jobs/<name>-<hash>/out/

A job's folder has the name of its content. So after a dropped connection the same command finds it: the build that
went on without anybody listening is waited for, or is done already.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shlex
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bottlekit.build.agent_pack import AGENT_NAME, pack_agent
from bottlekit.build.agent_talk import AgentTalk
from bottlekit.build.job import Compiled, Job
from bottlekit.build.job_folder import (
    engine_from_answer,
    job_folder_from_job,
    key_from_facts,
    plugin_from_facts,
    timing_cache_path,
)
from bottlekit.build.ssh import SshError, SshHost
from bottlekit.device.build_answer import (
    ANSWER_FILE,
    CACHE_FILE,
    JOB_FILE,
    LOG_FILE,
    OUT_FOLDER,
    engine_file,
    log_path,
)
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine, sidecar_path
from bottlekit.device.files import sha256_of_file, whole_file
from bottlekit.errors import BottlekitError, TargetError, UsageError

BUILD_TIMEOUT_S = 3600.0
# For what takes seconds: looking at a machine, removing a folder.
_SHORT_S = 120.0
# Beyond the agent's own time limit, so that it is the one who tells.
_GRACE_S = 60.0
# What a shell answers for a command that it cannot find or run.
_NO_SUCH_COMMAND = (126, 127)
# Relative to where ssh arrives, the home folder.
_ROOM = ".cache/bottlekit"


class RemoteMachine:
    """One machine with the agent on it; the agent is sent when it is first needed, and stays there.

    Like the modules of `build.COMPILERS` it has `key_of` and `compile_engine`. `python` is the interpreter there;
    `say` gets each line of progress; `timeout_s` is for one build.
    """

    def __init__(
        self,
        host: SshHost,
        say: Callable[[str], None],
        python: str = "python3",
        timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        if not 0 < timeout_s < float("inf"):
            raise UsageError(f"--timeout must be more than 0 seconds, not {timeout_s:g}")
        self.host = host
        self._say = say
        self._python = python
        self._timeout_s = timeout_s
        self._agent: str | None = None
        self._facts: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """What that machine is, asked once; TargetError if it cannot be reached or looked at."""
        if self._facts is None:
            self._facts, _ = self._ask(["facts"], _SHORT_S)
        return self._facts

    def doctor(self) -> dict[str, Any]:
        """What that machine lacks, and what to type there; TargetError if it cannot be reached."""
        return self._ask(["doctor"], _SHORT_S)[0]

    def key_of(self, job: Job) -> dict[str, Any]:
        """What else, beside the bundle and the target, decides what comes out; TargetError if it cannot build."""
        return key_from_facts(job, self._facts_for(job))

    def _facts_for(self, job: Job) -> dict[str, Any]:
        """What that machine is, with the plugin library that the job names looked at."""
        if job.plugin is None or job.plugin.library is None:
            return self.facts()
        return self._ask(["facts", "--plugin-library", job.plugin.library], _SHORT_S)[0]

    def compile_engine(self, job: Job, path: Path) -> Compiled:
        """Build `job` there and write the engine to `path`, its raw log and timing cache beside the engine's place.

        Raises TargetError when the machine cannot be reached, drops the connection or has no room; EngineError if
        the graph cannot be lowered, TensorRT refuses it or dies of it, or the engine computes something else.
        Nothing stays there, unless the connection is gone: then the same command goes on with what is there.
        """
        key = self.key_of(job)
        cache = timing_cache_path(job, key)
        with tempfile.TemporaryDirectory(prefix="bottlekit-") as scratch:
            folder = Path(scratch) / "job"
            plugin = plugin_from_facts(job, self._facts_for(job))
            job_folder_from_job(
                job, folder, key["compiler_version"], cache if cache.exists() else None, plugin=plugin
            )
            with _one_at_a_time(job.engine_path):
                answer, messages = self._built_there(job, folder)
                for file, content in answer.items():
                    (folder / file).parent.mkdir(exist_ok=True)
                    (folder / file).write_bytes(content)
            return engine_from_answer(job, folder, path, key, messages)

    def bench(
        self,
        work: list[tuple[Bundle, dict[str, Engine]]],
        target: str,
        options: Sequence[str],
        keep: Callable[[dict[str, Any]], None] = lambda profile: None,
    ) -> Any:
        """Measure engines there: the profile, as the agent's verb `bench` with these options gives it.

        Where that is interrupted, by Ctrl-C, a connection that drops or an engine that fails, `keep` gets the
        profile of what was measured before, if anything was.

        Raises TargetError when the machine cannot be reached; EngineError if an engine does not run there or gives
        other outputs. Nothing but the agent stays there.
        """
        files: dict[str, Path] = {}
        for bundle, engines in work:
            # The agent takes a bundle with only those graphs whose engines it runs.
            absent = {f"{part}.onnx" for part in bundle.parts if part not in engines}
            for name in ("bundle.json", *sorted(set(bundle.manifest["files"]) - absent)):
                files[f"fleet/{bundle.name}/{name}"] = Path(bundle.path) / name
            for engine in engines.values():
                for path in (Path(engine.path), Path(sidecar_path(engine.path))):
                    files[f"engines/{path.name}"] = path
        there = f"{_ROOM}/bench-{secrets.token_hex(4)}"
        talk = self._new_talk()
        try:
            self._send_whole(files, there)
            arguments = ["bench", f"{there}/fleet", "--engines", f"{there}/engines", "--target", target, *options]
            return self._ask(arguments, None, talk)[0]
        except BaseException:
            if talk.partial is not None:
                keep(talk.partial)
            raise
        finally:
            with contextlib.suppress(TargetError):
                self._remove(there)

    def _built_there(self, job: Job, folder: Path) -> tuple[dict[str, bytes], list[str]]:
        """Send a job folder unless it is there, and build it: what to fetch of it, and what was told on the way."""
        name = f"{job.bundle.name}-{job.part}-{job.target.name}"
        there = f"{_ROOM}/jobs/{name}-{_own(sha256_of_file(str(folder / JOB_FILE)), job.engine_path)}"
        if self.host.run(["test", "-f", f"{there}/{JOB_FILE}"], timeout_s=_SHORT_S).status == 0:
            self._say(f"{self.host.host}: this job was sent before; going on with it")
        else:
            self._send_whole({file.name: file for file in sorted(folder.iterdir())}, there)
        try:
            arguments = ["build", there, "--timeout", f"{self._timeout_s:g}"]
            answer, messages = self._ask(arguments, self._timeout_s + _GRACE_S)
            out = [engine_file(job.target.kind), ANSWER_FILE]
            if answer["timing_cache_sha256"] is not None:
                out.append(CACHE_FILE)
            contents = self.host.fetch(there, [LOG_FILE, *(f"{OUT_FOLDER}/{file}" for file in out)])
        except SshError:
            # It may go on there; who comes back finds it.
            raise
        except BottlekitError:
            with contextlib.suppress(TargetError):
                log = self.host.fetch(there, [LOG_FILE])[LOG_FILE]
                with whole_file(log_path(str(job.engine_path))) as temporary:
                    Path(temporary).write_bytes(log)
            with contextlib.suppress(TargetError):
                self._remove(there)
            raise
        self._remove(there)
        return contents, messages

    def _new_talk(self) -> AgentTalk:
        return AgentTalk(lambda message: self._say(f"{self.host.host}: {message}"))

    def _ask(
        self, arguments: Sequence[str], timeout_s: float | None, talk: AgentTalk | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """Run a verb of the agent there: what it answered, and what it told on the way."""
        talk = talk if talk is not None else self._new_talk()
        command = [self._python, self._agent_there(), *arguments]
        done = self.host.run(command, timeout_s=timeout_s, on_line=talk.take)
        if done.status in _NO_SUCH_COMMAND and not done.stdout:
            raise TargetError(
                f"{self.host.host}: cannot run {self._python} there; name another with --host-python, or install "
                "it there; type: sudo apt-get install python3"
            )
        return talk.answer(self.host.host, done.status, done.stderr), talk.messages

    def _agent_there(self) -> str:
        """Where the agent lies there; it is sent if it does not."""
        if self._agent is None:
            with tempfile.TemporaryDirectory(prefix="bottlekit-") as scratch:
                local = Path(scratch) / "agent.pyz"
                folder = f"{_ROOM}/agent-{pack_agent(local)[:16]}"
                if self.host.run(["test", "-d", folder], timeout_s=_SHORT_S).status != 0:
                    self._say(f"{self.host.host}: sending bottlekit's agent, {local.stat().st_size:,} bytes")
                    # Older ones, but not those that somebody else may be using now.
                    old = f"find {_ROOM} -maxdepth 1 -name 'agent-*' -mtime +1 -exec rm -rf {{}} +"
                    self.host.run(["sh", "-c", old], timeout_s=_SHORT_S)
                    self._send_whole({AGENT_NAME: local}, folder)
            self._agent = f"{folder}/{AGENT_NAME}"
        return self._agent

    def _send_whole(self, files: dict[str, Path], there: str) -> None:
        """Files into a folder there, which has its name only when all of them have arrived."""
        part = f"{there}.{secrets.token_hex(4)}.part"
        try:
            self.host.send(files, part)
            # If somebody was faster, theirs is the same.
            self._shell(f"mv -T {shlex.quote(part)} {shlex.quote(there)} || rm -rf {shlex.quote(part)}")
        except TargetError:
            with contextlib.suppress(TargetError):
                self._remove(part)
            raise

    def _remove(self, folder: str) -> None:
        self._shell(f"rm -rf {shlex.quote(folder)}")

    def _shell(self, script: str) -> None:
        done = self.host.run(["sh", "-c", script], timeout_s=_SHORT_S)
        if done.status != 0:
            raise TargetError(f"{self.host.host}: {done.stderr.strip() or 'a command failed'}: {script}")


def _own(job_sha256: str, engine_path: Path) -> str:
    """A name that is the same for the same job, from the same machine, for the same place, and no other."""
    words = "\n".join([job_sha256, socket.gethostname(), str(engine_path.absolute())])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _one_at_a_time(engine_path: Path) -> Iterator[None]:
    """Wait while another process here builds the same engine: it would take away what is fetched here."""
    name = hashlib.sha256(str(engine_path.absolute()).encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f"bottlekit-{os.getuid()}-{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
