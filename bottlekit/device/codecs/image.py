"""Codes tiled into one gray image, which an image coder compresses."""

from typing import Optional, Tuple

import numpy as np

from .. import jpeg, png, webp
from ..errors import CodecError, PayloadError
from ..quantizer import levels_from_bits
from ..tiling import Shape, canvas_shape, tile, untile
from .base import Codec, Tables


class ImageCodec(Codec):
    """Codes tiled into a gray image and stretched to 0..255, so that n-bit codes use JPEG's whole range.

    code k of n bits -> pixel round(k * 255 / (2^n - 1)), and pixel -> nearest code. Neither meets a tie.
    """

    def __init__(
        self,
        shape: Shape,
        bits: int,
        quality: int,
        value_range: Optional[Tuple[float, float]] = None,
        tables: Optional[Tables] = None,
    ) -> None:
        self.canvas = canvas_shape(*shape)
        levels = levels_from_bits(bits)
        self._pixel_from_code = ((np.arange(levels + 1) * 510 + levels) // (2 * levels)).astype(np.uint8)
        self._code_from_pixel = ((np.arange(256) * 2 * levels + 255) // 510).astype(np.uint8)
        super().__init__(shape, bits, quality, value_range, tables)

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8: those encoded, or near them where the coder is not lossless."""
        pixels = self._pixels_from_image(coded)
        if pixels.shape != self.canvas or pixels.dtype != np.uint8:
            raise PayloadError("the payload's image decoded to {} {}".format(pixels.dtype, pixels.shape))
        codes: np.ndarray = self._code_from_pixel[untile(pixels, self.shape)]
        return codes

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        return self._image_from_pixels(self._pixel_from_code[tile(codes)])

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        raise NotImplementedError

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        raise NotImplementedError


class JpegCodec(ImageCodec):
    """A complete gray baseline JPEG file of the canvas (BottleNet, section 2.2)."""

    name = "jpeg"

    def _take_tables(self, tables: Tables) -> None:
        self._coder = jpeg.GrayJpeg(self.canvas, self.quality)

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return self._coder.encode(pixels)

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return self._coder.decode(coded)

    def _max_coded_bytes(self) -> int:
        return self._coder.max_bytes


class LeanJpegCodec(JpegCodec):
    """The same JPEG without what is the same in every file: only its entropy-coded scan travels.

        file = header (328 bytes, in the bundle) + scan (on the wire) + end marker (2 bytes)

    The table `jpeg_header` is the header where the bundle was exported. A machine whose JPEG library writes
    another one would code with other tables, so it is refused when the codec is made.
    """

    name = "jpeg-lean"
    tables_needed = ("jpeg_header",)

    def tables_from_codes(self, codes: np.ndarray) -> Tables:
        """The header; it depends on size and quality alone."""
        return {"jpeg_header": np.frombuffer(self.header, dtype=np.uint8)}

    def _take_tables(self, tables: Tables) -> None:
        super()._take_tables(tables)
        self.header = self._coder.header
        if "jpeg_header" in tables and bytes(tables["jpeg_header"].tobytes()) != self.header:
            raise CodecError(
                "this machine's JPEG library writes other headers than the one where the bundle was exported; "
                "install Pillow from PyPI, or export with another codec"
            )

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return self._coder.encode(pixels)[len(self.header) : -len(jpeg.END_OF_IMAGE)]

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return self._coder.decode(self.header + coded + jpeg.END_OF_IMAGE)

    def _max_coded_bytes(self) -> int:
        return self._coder.max_bytes - len(self.header) - len(jpeg.END_OF_IMAGE)


class PngCodec(ImageCodec):
    """A complete gray 8-bit PNG file of the canvas: lossless (JointDNN)."""

    name = "png"
    lossless = True

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return png.gray_png_from_pixels(pixels)

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return png.pixels_from_gray_png(coded, self.canvas)

    def _max_coded_bytes(self) -> int:
        return png.max_bytes(self.canvas)


class WebpCodec(ImageCodec):
    """A WebP image of the canvas, without the 20 bytes around its bitstream: lossy VP8.

    Training cannot follow it, so it is for networks that were trained with another codec.
    """

    name = "webp"

    def _take_tables(self, tables: Tables) -> None:
        self._webp = webp.GrayWebp(self.canvas, self.quality, lossless=self.lossless)

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return self._webp.encode(pixels)

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return self._webp.decode(coded)

    def _max_coded_bytes(self) -> int:
        return self._webp.max_bytes


class LosslessWebpCodec(WebpCodec):
    """The same with lossless VP8L; `quality` is without meaning."""

    name = "webp-lossless"
    lossless = True
