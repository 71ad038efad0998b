"""Write the golden bitstreams next to this file. Existing ones are left alone."""

import pathlib

import numpy as np
from PIL import Image

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.images import image_from_file, input_from_image

HERE = pathlib.Path(__file__).parent
CASES = [
    ("raw", 8, 20, (5, 7, 7)),
    ("raw", 3, 20, (5, 7, 7)),
    ("raw", 1, 20, (1, 1, 1)),
    ("png", 8, 20, (2, 14, 14)),
    ("png", 5, 20, (3, 9, 5)),
    ("jpeg", 8, 20, (1, 28, 28)),
    ("jpeg", 8, 20, (5, 7, 7)),
    ("jpeg", 8, 95, (10, 4, 4)),
    ("jpeg", 4, 50, (2, 14, 14)),
    ("jpeg", 8, 1, (1, 1, 1)),
    ("jpeg-lean", 8, 20, (1, 28, 28)),
    ("jpeg-lean", 4, 50, (2, 14, 14)),
    ("jpeg-lean+static", 8, 20, (5, 7, 7)),
    ("raw+static", 3, 20, (2, 4, 4)),
    ("png+static", 8, 20, (2, 4, 4)),
    ("learned", 8, 20, (1, 28, 28)),
    ("learned", 4, 20, (5, 7, 7)),
    ("learned+static", 2, 20, (2, 14, 14)),
    ("learned+static", 1, 20, (1, 3, 3)),
    ("zdict", 8, 20, (2, 14, 14)),
    ("zdict+static", 3, 20, (10, 4, 4)),
    ("webp", 8, 20, (1, 28, 28)),
    ("webp+static", 8, 80, (2, 7, 7)),
    ("webp-lossless", 8, 20, (1, 28, 28)),
    ("webp-lossless+static", 4, 20, (2, 7, 7)),
    ("jpeg+static", 6, 40, (3, 9, 5)),
]
PREPROCESSING = {"resize": 20, "crop": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def main() -> None:
    """Write what is missing."""
    random = np.random.default_rng(0)
    for name, bits, quality, shape in CASES:
        path = HERE / f"{name}-b{bits}-q{quality}-{shape[0]}x{shape[1]}x{shape[2]}.payload"
        _, h, w = shape
        waves = np.sin(np.linspace(0, 4, h))[:, np.newaxis] * np.cos(np.linspace(0, 3, w))
        feature = (waves * random.uniform(1, 3, (shape[0], 1, 1)) + random.normal(0, 0.2, shape)).astype(np.float32)
        if path.exists():
            continue
        kind, _, static = name.partition("+")
        spec = {"name": kind, "bits": bits, "quality": quality, "range": static or "image"}
        training = np.stack([np.roll(feature, turn, axis=2) for turn in range(w)])
        tables = calibrated_tables(spec, shape, training)
        codec = codec_from_spec(spec, shape, tables)
        if tables:
            np.savez(path.with_suffix(".tables.npz"), **tables)
        payload = codec.encode(feature)
        path.write_bytes(payload)
        codes = codec.decode_codes(payload[0 if static else 8 :])
        np.savez(path.with_suffix(".npz"), feature=feature, codes=codes, decoded=codec.decode(payload))
    photo = HERE / "photo.png"
    if not photo.exists():
        blocks = Image.fromarray(random.integers(0, 256, (7, 9, 3)).astype(np.uint8))
        blocks.resize((46, 33), Image.Resampling.BICUBIC).save(photo)
        np.savez(HERE / "photo.npz", input=input_from_image(image_from_file(str(photo)), PREPROCESSING))


if __name__ == "__main__":
    main()
