"""The client that a moving device leaves running: it always answers, and picks where to cut for every image."""

import contextlib
import random
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..bundle import Bundle
from ..early_exit import ComputedHead, Offloaded, offloaded_from_answer
from ..errors import BundleError, IdentityError, UsageError, WireError
from ..exit_policy import Bounds
from ..images import input_from_image
from ..ort_runner import OnnxRuntimeRunner
from ..runner import Runner
from .exits import FleetExits
from .heads import Heads, RunnerFor, SizeOf, graph_bytes
from .link import FleetLink
from .options import MOBILE_ONLY, Option
from .policy import Decision, Policy, Settings
from .traffic import Traffic

# A ping that took longer tells nothing that is still true.
_PROBE_S = 2.0
# How long a ping waits for the link to be quiet.
_QUIET_S = 0.25
# How often to look whether a ping is due.
_LOOK_S = 0.1
_WHOLE = ("baseline", "full")


class AdaptiveAnswer(NamedTuple):
    """One image's answer: what it is, where it was computed and why, and what that took.

    `logits` float32 (classes,) in class order. `split` is a split's name or "mobile-only"; `reason` one line.
    `predicted_ms` are the chosen option's terms ("device", "uplink", "rtt", "server") and `considered_ms` what each
    option was predicted to take in all. `times_ms` was measured: "head", "encode", "round_trip", the server's
    "queue", "decode" and "tail"; or the whole network's name; "load" where a graph was loaded first, "connect"
    where a connection was made, and "lost" what was spent on a server that did not answer, whose words are in
    `lost`. Where the split's head has an exit, "decide" is in the times, and `early` tells whether it answered:
    behind which block (`exit`), how unsure (`doubt`), and the `threshold`.
    """

    class_index: int
    class_name: str
    logits: np.ndarray
    split: str
    reason: str
    predicted_ms: Dict[str, float]
    considered_ms: Dict[str, float]
    times_ms: Dict[str, float]
    payload_bytes: int = 0
    framed_bytes: int = 0
    response_bytes: int = 0
    lost: Optional[str] = None
    early: bool = False
    exit: Optional[str] = None
    doubt: Optional[float] = None
    threshold: Optional[float] = None


class AdaptiveClient:
    """All heads of a fleet and a server that may go, used as `with AdaptiveClient(...) as client:`.

    ::

        image --Policy.choose--> split --head, link--> answer
                             |     +--not in time--> whole network here --> answer
                             +--> mobile-only --> whole network here --> answer
        meanwhile, in a thread with a connection of its own: pings --> Policy

    `options` are what `options_from_profile` made for these bundles. Parts run on what `runner_for` gives, ONNX
    Runtime on the bundles' files without it. Of `memory_bytes` the whole network takes its part at once, so that it
    is there when the server is not, and the heads share the rest; splits whose head does not fit are left out, see
    `left_out`. `pin` names the one option to use; then nothing falls back, and a lost server is an error. `probing`
    False starts no thread: `probe` is then the caller's to call.

    Where a bundle has an exit, images leave there first, by `exit_threshold` or as `exit_bounds` allow (see
    FleetExits); an option is then predicted by the share that it sends.

    A server that is away when the `with` begins is no error; one with another fleet, or that does not let this
    device in, is. `infer_*` are for one thread at a time.
    """

    def __init__(
        self,
        bundles: List[Bundle],
        options: List[Option],
        host: str,
        port: int,
        runner_for: Optional[RunnerFor] = None,
        size_of: SizeOf = graph_bytes,
        memory_bytes: Optional[int] = None,
        pin: Optional[str] = None,
        settings: Optional[Settings] = None,
        timeout_s: float = 10.0,
        tls_folder: Optional[str] = None,
        server_name: Optional[str] = None,
        token: Optional[bytes] = None,
        probing: bool = True,
        clock: Callable[[], float] = time.monotonic,
        exit_threshold: Union[float, Sequence[float], None] = None,
        exit_bounds: Optional[Bounds] = None,
    ) -> None:
        self._bundles = {bundle.name: bundle for bundle in bundles}
        self._timeout_s = timeout_s
        self._clock = clock
        self._heads = Heads(runner_for or _on_onnx_runtime, size_of, memory_bytes)
        kept, self.left_out = self._fitting(options, pin, memory_bytes, size_of)
        self.policy = Policy(kept, settings, pin)
        self._exits = FleetExits(bundles, exit_threshold, exit_bounds)
        for option in kept:
            if option.is_remote:
                self.policy.expect(option.name, self._exits.offload_share(option.bundle))
        self._probing = probing and pin is None
        self._traffic = Traffic()
        link = (bundles, host, port, timeout_s, self._traffic, tls_folder, server_name, token)
        self._link, self._probe_link = FleetLink(*link), FleetLink(*link)
        # The policy is told things by two threads; a probe of the one at a time.
        self._policy_lock = threading.Lock()
        self._probe_lock = threading.Lock()
        self._stop = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "AdaptiveClient":
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._heads)
            undo.enter_context(self._link)
            undo.enter_context(self._probe_link)
            if self.policy.pin is None:
                self._load(self._mobile_only())
                with contextlib.suppress(WireError):
                    self._probe(raises=(BundleError, IdentityError))
            if self._probing:
                thread = threading.Thread(target=self._keep_probing, daemon=True, name="bottlekit-probe")
                thread.start()
                undo.callback(thread.join)
                undo.callback(self._stop.set)
            self._open = undo.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._open.close()
        self._stop.clear()

    def infer_image(self, image: np.ndarray) -> AdaptiveAnswer:
        """Classify an image, uint8 (h, w, 3), any size. See infer_input."""
        preprocessing = next(iter(self._bundles.values())).preprocessing
        return self.infer_input(input_from_image(image, preprocessing)[np.newaxis])

    def infer_input(self, image: np.ndarray) -> AdaptiveAnswer:
        """Classify a preprocessed image, float32 (1, 3, h, w).

        Without a pin it raises nothing that has to do with the server: what the server does not answer in time is
        computed here. With one it raises WireError and BundleError.
        """
        with self._policy_lock:
            decision = self.policy.choose(self._clock())
        if not decision.option.is_remote:
            return self._infer_here(image, decision, {})
        started = time.perf_counter()
        try:
            return self._infer_remote(image, decision)
        except (WireError, BundleError) as error:
            with self._policy_lock:
                self.policy.failed(self._clock(), str(error))
            if self.policy.pin is not None:
                raise
            lost_ms = (time.perf_counter() - started) * 1e3
            return self._infer_here(image, decision, {"lost": lost_ms}, str(error))

    def probe(self) -> bool:
        """Ping the server now, short and padded; False when it does not answer. Waits for at most about 4 s."""
        try:
            self._probe(raises=())
        except (WireError, BundleError):
            return False
        return True

    def _probe(self, raises: Tuple[type, ...]) -> None:
        timeout_s = min(_PROBE_S, self._timeout_s)
        with self._probe_lock:
            for padded in (False, True):
                # Between two requests it disturbs none, and none disturbs it; but it does not wait for ever.
                self._traffic.wait_for_quiet(_QUIET_S)
                try:
                    padding = self.policy.padding_bytes() if padded else 0
                    sent, round_trip_ms, at_work = self._probe_link.timed_ping(padding, timeout_s)
                except (WireError, BundleError) as error:
                    with self._policy_lock:
                        self.policy.ping_failed(self._clock(), str(error))
                    raise
                with self._policy_lock:
                    told = (sent, round_trip_ms, at_work, self._probe_link.crossed)
                    self.policy.pinged(self._clock(), *told)

    def _keep_probing(self) -> None:
        while True:
            with self._policy_lock:
                wait_s = self.policy.probe_wait_s(self._clock())
            # Many devices lose a server at the same moment, and must not all come back in one.
            # A request meanwhile can make the next ping due earlier.
            if self._stop.wait(min(max(wait_s * random.uniform(0.75, 1.0), 0.01), _LOOK_S)):
                return
            with self._policy_lock:
                due = self.policy.probe_wait_s(self._clock()) < 0.25 * max(wait_s, 0.04)
            if due:
                self.probe()

    def _infer_remote(self, image: np.ndarray, decision: Decision) -> AdaptiveAnswer:
        option = decision.option
        head, load_ms = self._load(option)
        patience_s = self._timeout_s
        if decision.patience_ms is not None:
            patience_s = min(patience_s, decision.patience_ms / 1e3)
        if self._exits.has(option.bundle):
            return self._infer_through_exit(image, decision, head, load_ms, patience_s)
        answer, connect_ms = self._link.infer_with(self._bundles[option.bundle], head, image, patience_s)
        times_ms = dict(answer.times_ms)
        device_ms = times_ms["head"] + times_ms["encode"]
        server_ms = times_ms["queue"] + times_ms["decode"] + times_ms["tail"]
        network_ms = max(times_ms["round_trip"] - server_ms, 0.0)
        with self._policy_lock:
            told = (answer.framed_bytes, network_ms, device_ms, server_ms, self._link.crossed)
            self.policy.answered(self._clock(), option, *told)
        for name, spent_ms in (("load", load_ms), ("connect", connect_ms)):
            if spent_ms:
                times_ms[name] = spent_ms
        sizes = (answer.payload_bytes, answer.framed_bytes, answer.response_bytes)
        return self._answer(decision, answer.logits, decision.option.name, decision.terms_ms, times_ms, sizes)

    def _infer_through_exit(
        self, image: np.ndarray, decision: Decision, head: Runner, load_ms: float, patience_s: float
    ) -> AdaptiveAnswer:
        option, bundle = decision.option, self._bundles[decision.option.bundle]
        connects_ms = []

        def offload(feature: np.ndarray) -> Offloaded:
            computed = ComputedHead()
            computed.feature = feature
            answer, connect_ms = self._link.infer_with(bundle, computed, feature, patience_s)
            connects_ms.append(connect_ms)
            return offloaded_from_answer(answer)

        answer = self._exits.infer(bundle, head, image, offload)
        times_ms = dict(answer.times_ms)
        device_ms = times_ms["head"] + times_ms["decide"]
        with self._policy_lock:
            self.policy.expect(option.name, self._exits.offload_share(bundle.name))
            if answer.early:
                self.policy.left_early(option, device_ms)
            else:
                device_ms += times_ms["encode"]
                server_ms = times_ms["queue"] + times_ms["decode"] + times_ms["tail"]
                network_ms = max(times_ms["round_trip"] - server_ms, 0.0)
                told = (answer.framed_bytes, network_ms, device_ms, server_ms, self._link.crossed)
                self.policy.answered(self._clock(), option, *told)
        for name, spent_ms in (("load", load_ms), ("connect", sum(connects_ms))):
            if spent_ms:
                times_ms[name] = spent_ms
        sizes = (answer.payload_bytes, answer.framed_bytes, answer.response_bytes)
        found = self._answer(decision, answer.logits, option.name, decision.terms_ms, times_ms, sizes)
        return found._replace(early=answer.early, exit=answer.exit, doubt=answer.doubt, threshold=answer.threshold)

    def _infer_here(
        self, image: np.ndarray, decision: Decision, times_ms: Dict[str, float], lost: Optional[str] = None
    ) -> AdaptiveAnswer:
        option = self._mobile_only()
        runner, load_ms = self._load(option)
        started = time.perf_counter()
        logits = runner.run({"image": image})["logits"][0]
        elapsed_ms = (time.perf_counter() - started) * 1e3
        with self._policy_lock:
            self.policy.ran_here(option, elapsed_ms)
        times_ms = dict(times_ms, **{option.part: elapsed_ms})
        if load_ms:
            times_ms["load"] = load_ms
        terms_ms = next(one.terms_ms for one in decision.considered if one.option.name == MOBILE_ONLY)
        return self._answer(decision, logits, option.name, terms_ms, times_ms, (0, 0, 0), lost)

    def _answer(
        self,
        decision: Decision,
        logits: np.ndarray,
        split: str,
        terms_ms: Dict[str, float],
        times_ms: Dict[str, float],
        sizes: Tuple[int, int, int],
        lost: Optional[str] = None,
    ) -> AdaptiveAnswer:
        best = int(np.argmax(logits))
        reason = decision.reason
        if lost is not None:
            reason = "{} did not answer: {}".format(decision.option.name, lost)
        return AdaptiveAnswer(
            class_index=best,
            class_name=next(iter(self._bundles.values())).classes[best],
            logits=logits,
            split=split,
            reason=reason,
            predicted_ms=dict(terms_ms),
            considered_ms={one.option.name: one.latency_ms for one in decision.considered},
            times_ms=times_ms,
            payload_bytes=sizes[0],
            framed_bytes=sizes[1],
            response_bytes=sizes[2],
            lost=lost,
        )

    def _mobile_only(self) -> Option:
        return next(option for option in self.policy.options if option.name == MOBILE_ONLY)

    def _load(self, option: Option) -> Tuple[Runner, float]:
        """An option's runner, and the time in ms that loading took, 0 if it was there."""
        if (option.bundle, option.part) in self._heads.names:
            return self._heads.get(self._bundles[option.bundle], option.part), 0.0
        started = time.perf_counter()
        keep = _WHOLE if self.policy.pin is None else ()
        runner = self._heads.get(self._bundles[option.bundle], option.part, keep)
        return runner, (time.perf_counter() - started) * 1e3

    def _fitting(
        self, options: List[Option], pin: Optional[str], memory_bytes: Optional[int], size_of: SizeOf
    ) -> Tuple[List[Option], List[str]]:
        """The options that the memory budget allows, and the names of the others."""
        whole_bytes = 0
        for option in options:
            if not option.is_remote and pin is None:
                whole_bytes = size_of(self._bundles[option.bundle], option.part)
                if not self._heads.fits(self._bundles[option.bundle], option.part):
                    raise UsageError(
                        "the whole network has {} bytes and has to stay in memory for when the server is lost; "
                        "the budget is {}: give more, or pin a split".format(whole_bytes, memory_bytes)
                    )
        kept, left_out = [], []
        for option in options:
            beside_bytes = whole_bytes if option.is_remote else 0
            if self._heads.fits(self._bundles[option.bundle], option.part, beside_bytes):
                kept.append(option)
            else:
                left_out.append(option.name)
        return kept, left_out


def _on_onnx_runtime(bundle: Bundle, part: str) -> OnnxRuntimeRunner:
    # Several sessions take turns on the same cores: threads that wait busily would take each other's.
    return OnnxRuntimeRunner(bundle.onnx_path(part), spin=False)
