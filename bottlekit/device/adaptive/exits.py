"""The exits of a fleet's bundles: at whichever split an image is cut, it may leave there first."""

from typing import Dict, List, Optional, Sequence, Union

import numpy as np

from ..bundle import Bundle
from ..early_exit import EarlyExit, ExitAnswer, Offload, exit_from_bundle, has_exit
from ..exit_control import Estimate, ExitControl
from ..exit_policy import Bounds
from ..runner import Runner


class FleetExits:
    """For every bundle with an exit: who leaves early, and which share is expected to be sent.

    `threshold` None is each bundle's own; one for all exits, or one for each exit of a bundle. With `bounds` each
    bundle has an ExitControl: every split keeps them, so all images together do. Raises BundleError for a
    threshold or bounds where no bundle has an exit, UsageError for a threshold that a rule cannot use.
    """

    def __init__(
        self,
        bundles: List[Bundle],
        threshold: Union[float, Sequence[float], None] = None,
        bounds: Optional[Bounds] = None,
    ) -> None:
        with_exit = [bundle for bundle in bundles if has_exit(bundle)]
        if (threshold is not None or bounds is not None) and not with_exit:
            exit_from_bundle(bundles[0])  # says what is wrong
        self._threshold = threshold
        self._devices: Dict[str, EarlyExit] = {}
        self._controls: Dict[str, ExitControl] = {}
        self._sent: Dict[str, Estimate] = {}
        for bundle in with_exit:
            found = exit_from_bundle(bundle)
            self._sent[bundle.name] = Estimate()
            self._sent[bundle.name].observe(1.0 - found.early_share)
            if bounds is not None:
                self._controls[bundle.name] = ExitControl(found, len(bundle.classes), bounds)

    def has(self, name: str) -> bool:
        """Whether the bundle of this name has an exit."""
        return name in self._sent

    def offload_share(self, name: str) -> float:
        """The share of images that a bundle lately sent, by the bundle's own word at first; 1 without an exit."""
        return float(self._sent[name].value or 0.0) if name in self._sent else 1.0

    def infer(self, bundle: Bundle, head: Runner, image: np.ndarray, offload: Offload) -> ExitAnswer:
        """Classify a preprocessed image, float32 (1, 3, h, w), asking `offload` where no exit is sure."""
        device = self._devices.get(bundle.name)
        if device is None or device.head is not head:
            device = self._devices[bundle.name] = EarlyExit(bundle, head, offload, self._threshold)
        device.offload = offload
        control = self._controls.get(bundle.name)
        if control is not None:
            device.threshold = control.threshold()
        answer = device.infer_input(image)
        if control is not None:
            control.told(answer)
        self._sent[bundle.name].observe(0.0 if answer.early else 1.0)
        return answer
