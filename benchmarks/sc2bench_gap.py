"""Where the bytes of two methods differ: what the same codes take in one coder after the other.

    codes of training images --learn--> a density (one table), or tables after the neighbours
    codes of held-out images --> bytes a payload: own coder, own density, that one table, bottlekit's `learned`

So sc2bench's rounded latents are coded by bottlekit's codec, too, and what remains between the two methods after
that is what their trainings make of the images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codecs.prior import prior_from_codes

Codes = NDArray[Any]
MOST_BITS = 8


def bytes_of_codes(training: Codes, held_out: Codes) -> dict[str, float]:
    """Of whole numbers (n, c, h, w): how many values they have, and mean bytes an image in two ways.

    `table_bytes` is the ideal length after one table for each channel, counted on the training images, whatever the
    neighbours are; `learned_bytes` the length of what bottlekit's codec `learned` makes of them, without a range.
    Raises ValueError for codes that span more than 256 values.
    """
    low = min(int(training.min()), int(held_out.min()))
    span = max(int(training.max()), int(held_out.max())) - low + 1
    bits = max(1, (span - 1).bit_length())
    if bits > MOST_BITS:
        raise ValueError(f"the codes span {span} values, and the codec `learned` takes up to {1 << MOST_BITS}")
    known, new = ((codes.astype(np.int64) - low).astype(np.uint8) for codes in (training, held_out))
    shape = tuple(int(side) for side in new.shape[1:])
    spec = {"name": "learned", "bits": bits, "quality": 20}
    codec = codec_from_spec(spec, (shape[0], shape[1], shape[2]), prior_from_codes(known, bits))
    return {
        "values": len(np.unique(known)),
        "table_bytes": _ideal_bytes(known, new, 1 << bits),
        "learned_bytes": float(np.mean([len(codec.encode_codes(codes)) for codes in new])),
    }


def _ideal_bytes(known: NDArray[np.uint8], new: NDArray[np.uint8], values: int) -> float:
    """Mean bytes an image after counts of each channel alone; every value counts as met half a time more."""
    bits = 0.0
    for channel in range(known.shape[1]):
        met = np.bincount(known[:, channel].ravel(), minlength=values) + 0.5
        bits -= float(np.log2(met / met.sum())[new[:, channel]].sum())
    return bits / 8 / len(new)
