"""What `bottlekit infer` does with a bundle that has an exit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.adaptive.client import AdaptiveAnswer
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.early_exit import EarlyExit, ExitAnswer
    from bottlekit.device.exit_control import ExitControl
    from bottlekit.device.exit_policy import Bounds
    from bottlekit.device.service import RunnerFor

# (bundle, [(class, logit), ...], times) -> an image's result
Result = Callable[["Bundle", list[tuple[int, float]], dict[str, float]], dict[str, Any]]


def decides_here(bundle: Bundle, setup: str, asked: bool) -> bool:
    """Whether the device's exit decides: it does wherever both parts run and the bundle has one.

    `asked` is whether a threshold or a policy was given. Raises UsageError for one where nothing is cut,
    BundleError for one where there is no exit.
    """
    from bottlekit.device.early_exit import exit_from_bundle, has_exit

    if setup not in ("collaborative", "local"):
        if asked:
            raise UsageError(
                f"--exit-threshold and --exit-policy decide what is sent; --{setup} sends all or nothing"
            )
        return False
    if asked:
        exit_from_bundle(bundle)
    return has_exit(bundle)


def exit_options(threshold: str | None, policy: str | None) -> tuple[list[float] | float | None, Bounds | None]:
    """(threshold for all exits or for each, bounds) of the options; UsageError for both at once, or other words."""
    from bottlekit.device.exit_policy import bounds_from_text

    if threshold is not None and policy is not None:
        raise UsageError("--exit-policy moves the threshold itself; leave out --exit-threshold or it")
    if threshold is None:
        return None, None if policy is None else bounds_from_text(policy)
    try:
        values = [float(part) for part in threshold.split(",")]
    except ValueError:
        raise UsageError(
            f"--exit-threshold takes a number, or one for each exit with commas between them, not '{threshold}'"
        ) from None
    return values if len(values) > 1 else values[0], None


class ExitClassifier:
    """Classifies image files through an exit, and remembers the answers for the report."""

    def __init__(
        self,
        bundle: Bundle,
        device: EarlyExit,
        with_server: bool,
        top: int,
        result: Result,
        control: ExitControl | None = None,
    ) -> None:
        self._bundle, self._device, self._with_server = bundle, device, with_server
        self._control = control
        self._began_s = time.monotonic()
        self._top, self._result = top, result
        self._paths: list[Path] = []
        self._answers: list[ExitAnswer] = []

    def __call__(self, path: Path) -> dict[str, Any]:
        """The result of one image: as without an exit, and who answered."""
        from bottlekit.device.images import image_from_file

        image = image_from_file(str(path))
        if self._control is not None:
            self._device.threshold = self._control.threshold()
        answer = self._device.infer_image(image)
        if self._control is not None:
            self._control.told(answer)
        self._paths.append(path)
        self._answers.append(answer)
        sizes: dict[str, Any] = {"payload_bytes": answer.payload_bytes}
        if self._with_server:
            sizes.update(framed_bytes=answer.framed_bytes, response_bytes=answer.response_bytes)
        found = self._result(self._bundle, answer.top(self._top), answer.times_ms)
        return {**found, **decision_of(answer), **sizes}

    def report(self) -> dict[str, Any]:
        """How many left early; accuracy, latency, bytes and modelled energy over all and for both groups.

        An image's label is the name of its folder, where every image lies in one that is named as a class.
        """
        from bottlekit.device.exit_policy import reached, report_of_answers
        from bottlekit.planning.hybrid_energy import hybrid_energy, layers_from_records

        names, classes = [path.resolve().parent.name for path in self._paths], self._bundle.classes
        known = all(name in classes for name in names)
        report = report_of_answers(self._answers, [classes.index(name) for name in names] if known else None)
        if self._control is not None:
            seconds = time.monotonic() - self._began_s
            report["policy"] = reached(self._control.bounds, self._answers, seconds)
        energy = None
        if self._device.exit.work:
            modelled = hybrid_energy(layers_from_records(self._device.exit.work), report["early_share"])
            energy = modelled.to_dict()
            costs = {"all": modelled.mean_mj, "early": modelled.edge_mj}
            costs["offloaded"] = modelled.edge_mj + modelled.cloud_mj
            for group, cost in costs.items():
                if report[group] is not None:
                    report[group]["energy_mj"] = cost
        return {
            "rule": self._device.exit.rule,
            "threshold": self._device.threshold,
            "exits": [block for block, _ in self._device.exit.exits],
            **report,
            "energy": energy,
        }


@contextlib.contextmanager
def exit_classifier(
    bundle: Bundle,
    address: tuple[str, int] | None,
    client_options: dict[str, Any],
    runner_for: RunnerFor | None,
    threshold: list[float] | float | None,
    bounds: Bounds | None,
    top: int,
    result: Result,
) -> Iterator[ExitClassifier]:
    """The classifier, ready to run: with the server at `address`, or both parts in this process."""
    from bottlekit.device.client import SplitClient
    from bottlekit.device.early_exit import ComputedHead, EarlyExit, offload_here, offload_to_server
    from bottlekit.device.exit_control import ExitControl
    from bottlekit.device.service import runner_from_onnx

    make_runner = runner_for or runner_from_onnx()
    with contextlib.ExitStack() as stack:
        if address is not None:
            computed = ComputedHead()
            client = stack.enter_context(SplitClient(bundle, *address, computed, **client_options))
            offload = offload_to_server(client, computed)
        else:
            offload = offload_here(bundle.codec, stack.enter_context(make_runner(bundle, "tail")))
        head = stack.enter_context(make_runner(bundle, "head"))
        device = EarlyExit(bundle, head, offload, threshold)
        control = None if bounds is None else ExitControl(device.exit, len(bundle.classes), bounds)
        yield ExitClassifier(bundle, device, address is not None, top, result, control)


def decision_of(answer: ExitAnswer | AdaptiveAnswer) -> dict[str, Any]:
    """What an image's result tells of the exits: who answered, how unsure it was, and the threshold."""
    doubt = None if answer.doubt is None else round(answer.doubt, 6)
    return {"early": answer.early, "exit": answer.exit, "doubt": doubt, "threshold": answer.threshold}


def show_policy(policy: dict[str, Any]) -> None:
    """A line for each bound, on stdout."""
    for name, value in policy["reached"].items():
        kept = "kept" if policy["kept"][name] else "not kept"
        missed = f", {policy['missed']} images late" if name == "deadline-ms" and policy["missed"] else ""
        print(f"  {name} {value:.4g} of {policy['bounds'][name]:.4g}: {kept}{missed}")


def show_exit_report(report: dict[str, Any]) -> None:
    """A line for all images and one for each group, on stdout."""
    print(f"{report['early_share']:.1%} left early ({report['rule']}, threshold {report['threshold']:.4f})")
    if "policy" in report:
        show_policy(report["policy"])
    for name in ("all", "early", "offloaded"):
        group = report[name]
        if group is not None:
            accuracy = "" if group["accuracy"] is None else f", {group['accuracy']:.2%} right"
            energy = f", {group['energy_mj']:.6f} mJ modelled" if "energy_mj" in group else ""
            print(
                f"  {name:<9} {group['images']} images, {group['latency_ms']:.2f} ms, "
                f"{group['payload_bytes']:.1f} bytes{accuracy}{energy}"
            )
