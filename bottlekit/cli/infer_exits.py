"""What `bottlekit infer` does with a bundle that has an exit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.early_exit import EarlyExit, ExitAnswer
    from bottlekit.device.service import RunnerFor

# (bundle, [(class, logit), ...], times) -> an image's result
Result = Callable[["Bundle", list[tuple[int, float]], dict[str, float]], dict[str, Any]]


def decides_here(bundle: Bundle, setup: str, threshold: float | None) -> bool:
    """Whether the device's exit decides: it does wherever both parts run and the bundle has one.

    Raises UsageError for a threshold where nothing is cut, BundleError for one where there is no exit.
    """
    from bottlekit.device.early_exit import exit_from_bundle, has_exit

    if setup not in ("collaborative", "local"):
        if threshold is not None:
            raise UsageError(f"--exit-threshold decides what is sent; --{setup} sends all or nothing")
        return False
    if threshold is not None:
        exit_from_bundle(bundle)
    return has_exit(bundle)


class ExitClassifier:
    """Classifies image files through an exit, and remembers the answers for the report."""

    def __init__(self, bundle: Bundle, device: EarlyExit, with_server: bool, top: int, result: Result) -> None:
        self._bundle, self._device, self._with_server = bundle, device, with_server
        self._top, self._result = top, result
        self._paths: list[Path] = []
        self._answers: list[ExitAnswer] = []

    def __call__(self, path: Path) -> dict[str, Any]:
        """The result of one image: as without an exit, and who answered."""
        from bottlekit.device.images import image_from_file

        answer = self._device.infer_image(image_from_file(str(path)))
        self._paths.append(path)
        self._answers.append(answer)
        sizes: dict[str, Any] = {"payload_bytes": answer.payload_bytes}
        if self._with_server:
            sizes.update(framed_bytes=answer.framed_bytes, response_bytes=answer.response_bytes)
        found = self._result(self._bundle, answer.top(self._top), answer.times_ms)
        return {**found, "early": answer.early, "doubt": round(answer.doubt, 6), **sizes}

    def report(self) -> dict[str, Any]:
        """How many left early; accuracy, latency, bytes and modelled energy over all and for both groups.

        An image's label is the name of its folder, where every image lies in one that is named as a class.
        """
        from bottlekit.device.exit_policy import report_of_answers
        from bottlekit.planning.hybrid_energy import hybrid_energy, layers_from_records

        names, classes = [path.resolve().parent.name for path in self._paths], self._bundle.classes
        known = all(name in classes for name in names)
        report = report_of_answers(self._answers, [classes.index(name) for name in names] if known else None)
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
            **report,
            "energy": energy,
        }


@contextlib.contextmanager
def exit_classifier(
    bundle: Bundle,
    address: tuple[str, int] | None,
    client_options: dict[str, Any],
    runner_for: RunnerFor | None,
    threshold: float | None,
    top: int,
    result: Result,
) -> Iterator[ExitClassifier]:
    """The classifier, ready to run: with the server at `address`, or both parts in this process."""
    from bottlekit.device.client import SplitClient
    from bottlekit.device.early_exit import ComputedHead, EarlyExit, offload_here, offload_to_server
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
        yield ExitClassifier(bundle, device, address is not None, top, result)


def show_exit_report(report: dict[str, Any]) -> None:
    """A line for all images and one for each group, on stdout."""
    print(f"{report['early_share']:.1%} left early ({report['rule']}, threshold {report['threshold']:.4f})")
    for name in ("all", "early", "offloaded"):
        group = report[name]
        if group is not None:
            accuracy = "" if group["accuracy"] is None else f", {group['accuracy']:.2%} right"
            energy = f", {group['energy_mj']:.6f} mJ modelled" if "energy_mj" in group else ""
            print(
                f"  {name:<9} {group['images']} images, {group['latency_ms']:.2f} ms, "
                f"{group['payload_bytes']:.1f} bytes{accuracy}{energy}"
            )
