"""The picture that shows what is sent: input, reduced feature, what came back after the codec, prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bottlekit.errors import ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class Example:
    """One image on its way through the split.

        image (h, w, 3) -> head -> sent (H, W) -> codec -> received (H, W) -> tail -> predicted

    `image` uint8; `sent` and `received` are the reduced feature's channels tiled into one gray canvas, uint8,
    before and after the codec, on the same scale.
    """

    image: NDArray[np.uint8]
    sent: NDArray[np.uint8]
    received: NDArray[np.uint8]
    payload_bytes: int
    predicted: str
    truth: str


def canvases_from_features(
    sent: NDArray[np.float32], received: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two features (c, h, w) as gray canvases (H, W), both scaled by the range of the first.

    What the codec changed is therefore visible, and nothing else.
    """
    import numpy as np

    from bottlekit.device.tiling import tile

    if sent.ndim != 3 or sent.shape != received.shape:
        raise ReportError(
            f"a feature is (c, h, w) before and after the codec, not {sent.shape} and {received.shape}"
        )
    low, high = float(sent.min()), float(sent.max())
    scale = 255.0 / (high - low) if high > low else 0.0

    def canvas(feature: NDArray[np.float32]) -> NDArray[np.uint8]:
        codes = np.clip(np.rint((feature - low) * scale), 0, 255).astype(np.uint8)
        return np.asarray(tile(codes))

    return canvas(sent), canvas(received)


def examples_picture(examples: Sequence[Example]) -> Picture:
    """One column an image, at most eight: input, canvas sent, canvas received, and what the tail says.

    Raises ReportError when there are none.
    """
    if not examples:
        raise ReportError("there is no example image to draw")
    shown = list(examples)[:MOST_EXAMPLES]
    names = ("input", "reduced feature,\ntiled", "after the codec")
    with drawing.style():
        figure = drawing.new_figure(10, 4.1)
        panels = figure.subplots(3, len(shown), squeeze=False)
        for column, example in enumerate(shown):
            for row, picture in enumerate((example.image, example.sent, example.received)):
                _image(panels[row, column], picture)
            right = example.predicted == example.truth
            panels[0, column].set_title(
                f"{'✓' if right else '✗'} {_short(example.predicted)}",
                loc="center", color=drawing.GREEN if right else drawing.VERMILION,
            )  # fmt: skip
            truth = "" if right else f"\nis {_short(example.truth)}"
            panels[2, column].set_xlabel(f"{example.payload_bytes:,} B{truth}")
        for row, name in enumerate(names):
            panels[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        svg = drawing.svg_from_figure(figure, "examples", "example images, what was sent, and what was predicted")
    caption = (
        "Above each image what the tail predicted from it; below, the payload that was sent (measured). "
        "The two canvases have the same gray scale: a difference between them is what the codec lost."
    )
    return Picture("Images on their way through the split", caption, svg, figure)


def _image(axes: Any, picture: NDArray[np.uint8]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
