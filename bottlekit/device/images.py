"""From an image file to the network's input.

    file --image_from_file--> uint8 (h, w, 3) --input_from_image--> float32 (3, crop, crop)

The same evaluation convention as torchvision's: short side resized, centre cropped, scaled to 0..1, normalised.
"""

import io
import os
import warnings
from typing import Any, Dict, Optional, Tuple

import numpy as np

from .errors import DataError, UsageError

# Formats that hold photographs. Pillow knows more, among them some that run other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

# Decoded pixels take 3 bytes each (and some formats more while they are decoded): 200 MB at most.
MAX_PIXELS = 1 << 26
MAX_FILE_BYTES = 1 << 28

_EXIF_ORIENTATION = 0x0112


def image_from_file(path: str) -> np.ndarray:
    """The pixels of an image file, uint8 (h, w, 3), upright; DataError names the file and says what is wrong."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise DataError("no image at {}: the file does not exist".format(path))
    if not os.path.isfile(path):
        raise DataError("{} is no image file{}".format(path, " but a folder" if os.path.isdir(path) else ""))
    try:
        size = os.path.getsize(path)
        if size > MAX_FILE_BYTES:
            raise DataError("{} has {} bytes; images of up to {} are read".format(path, size, MAX_FILE_BYTES))
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError("{} cannot be read: {}".format(path, error.strerror))
    return image_from_bytes(data, where=path)


def image_from_bytes(data: bytes, where: str = "image", max_pixels: Optional[int] = None) -> np.ndarray:
    """The pixels of an image file's content, uint8 (h, w, 3), turned upright as its EXIF data says.

    Gray, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped, as torchvision's loader does;
    of an animation the first frame is taken. `max_pixels` lowers the limit of MAX_PIXELS.

    Raises:
        DataError: empty, damaged or truncated, of another format, or too large; `where` names it in the message.
    """
    from PIL import Image, UnidentifiedImageError

    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if not data:
        raise DataError("{} is empty".format(where))
    try:
        with warnings.catch_warnings():
            # Pillow warns about oddities that do not change the pixels; what changes them is an error below.
            warnings.simplefilter("ignore")
            _check_png(data)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > limit:
                    raise Image.DecompressionBombError("{} x {} pixels".format(width, height))
                image.load()
                return np.ascontiguousarray(_upright(_rgb(image), _orientation(image)))
    except Image.DecompressionBombError as error:
        # Ours, or Pillow's own where even its limit is passed.
        raise DataError(
            "{} is too large, images of up to {} million pixels are read: {}".format(
                where, limit // 1000000, _one_line(error)
            )
        )
    except UnidentifiedImageError:
        raise DataError("{} is no image in a format that is read here ({})".format(where, ", ".join(FORMATS)))
    except Exception as error:
        # A damaged file can make Pillow's readers raise nearly anything: OSError, SyntaxError, struct.error,
        # zlib.error, IndexError, OverflowError.
        raise DataError("{} is a damaged or truncated image: {}".format(where, _one_line(error)))


def input_from_image(image: np.ndarray, preprocessing: Dict[str, Any]) -> np.ndarray:
    """An image uint8 (h, w, 3) as the network's input float32 (3, crop, crop).

    The short side is resized to `resize` (bilinear, antialiased; not at all where it has that length already), the
    centre crop x crop is cut out, scaled to 0..1, and per channel (value - mean) / std is taken.

    Args:
        preprocessing: {"resize": pixels, "crop": pixels, "mean": [3 values], "std": [3 values]}.

    Raises:
        UsageError: a crop larger than the resized image.
        DataError: an array that is no image, or one too elongated to resize.
    """
    from PIL import Image

    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = (getattr(image, "dtype", type(image).__name__), getattr(image, "shape", ()))
        raise DataError("an image is uint8 (h, w, 3), not {} {}".format(*kind))
    if image.size == 0:
        raise DataError("an image has at least one pixel, not the shape {}".format(image.shape))
    resize, crop = preprocessing["resize"], preprocessing["crop"]
    if not 1 <= crop <= resize:
        raise UsageError(
            "the preprocessing cannot cut {0} x {0} pixels out of an image whose short side is resized to {1}; "
            "crop must be 1 to resize".format(crop, resize)
        )
    height, width = _resized(image.shape[0], image.shape[1], resize)
    if (height, width) != image.shape[:2]:
        if height * width > MAX_PIXELS:
            raise DataError(
                "an image of {} x {} pixels is too elongated to resize its short side to {}".format(
                    image.shape[1], image.shape[0], resize
                )
            )
        resized = Image.fromarray(image).resize((width, height), Image.BILINEAR)  # type: ignore[attr-defined]
        image = np.asarray(resized)
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    pixels = image[top : top + crop, left : left + crop].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean = np.array(preprocessing["mean"], dtype=np.float32).reshape(3, 1, 1)
    std = np.array(preprocessing["std"], dtype=np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray((pixels - mean) / std)


def jpeg_from_image(image: np.ndarray, quality: int) -> bytes:
    """The JPEG file (Pillow's settings, 4:2:0) of an image uint8 (h, w, 3): what cloud-only sends."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _resized(height: int, width: int, short: int) -> Tuple[int, int]:
    """The (height, width) with the short side `short`, the long one rounded down as torchvision does."""
    if height <= width:
        return short, short * width // height
    return short * height // width, short


def _check_png(data: bytes) -> None:
    """Let Pillow compare a PNG's checksums, which it does not when it decodes the pixels."""
    from PIL import Image

    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()


def _rgb(image: Any) -> np.ndarray:
    """The pixels of a loaded Pillow image as uint8 (h, w, 3)."""
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit gray at 255 instead of scaling it.
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("32-bit pixels; save it with 8 or 16 bits a channel")
        gray = ((gray * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    return np.array(image.convert("RGB"))


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Unreadable EXIF data does not make the pixels unusable, and Pillow raises nearly anything here too.
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (h, w, 3) turned and mirrored as an EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _one_line(error: Exception) -> str:
    """An exception's message in one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
