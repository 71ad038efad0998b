"""The round trip through a gray JPEG file as tensor arithmetic: for a batch, on any device, to the last bit.

What JPEG loses, it loses in three places: in the transform's rounding, in the coefficients' division, and where
pixels are cut off at 0 and 255. The coding behind them (Huffman) is lossless and therefore not here.

All of it is integer arithmetic, and the same integers as in libjpeg-turbo's accurate transform (JDCT_ISLOW), which
Pillow writes with and both Pillow and simplejpeg read with. Its 8-point transform is a sum of products with 13-bit
constants that is rounded once, at the end, and a sum of integers does not depend on its order. So each pass is one
multiplication with a matrix, which tensors do faster than libjpeg's butterflies, and the way back uses the matrix's
transpose: the constants of libjpeg's inverse are arranged the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bottlekit.errors import CodecError

# ITU-T T.81, table K.1: the divisors of luminance at quality 50, one row for each vertical frequency.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)

# Row u is 2^13 * sqrt(8) times the u-th basis vector of the 8-point DCT, as Loeffler, Ligtenberg and Moschytz's
# algorithm computes it from constants of 13 bits: 2259, 2260 and 2261 are one cosine, and where which of them
# stands is part of being exact.
TRANSFORM = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)

# Bits dropped after each pass. The constants have 13 bits. Between the passes, values keep 2 bits more; the
# coefficients keep the factor 8 of two passes with sqrt(8) each, which the divisors have too; the way back drops 3.
_FORWARD_SHIFTS = (13 - 2, 13 + 2)
_INVERSE_SHIFTS = (13 - 2, 13 + 2 + 3)


def divisors_from_quality(quality: int) -> list[list[int]]:
    """The quantisation table (8 x 8, 1..255) that libjpeg derives from table K.1 for a quality of 1..100."""
    if not 1 <= quality <= 100:
        raise CodecError(f"JPEG's quality is 1 to 100, not {quality!r}")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [[min(max((base * percent + 50) // 100, 1), 255) for base in row] for row in LUMINANCE]


class JpegRoundTrip(nn.Module):
    """Pixels to the pixels that a reader of their JPEG files gets.

        pixels (n, h, w) int32, 0..255
          | last row and column repeated up to multiples of 8, cut into blocks
        blocks (8, 8, n * blocks)                          the batch last: every operation runs over long rows
          | transform the rows, then the columns, - 128
          | divide by 8 * divisors, round, multiply by divisors
          | + 128, transform back the columns, then the rows, cut off at 0 and 255
        blocks (8, 8, n * blocks)
          | put together, the repeated rows and columns left out
        pixels (n, h, w) int32, 0..255

    libjpeg centres pixels at 0 before it transforms them. Subtracting 128 from each changes the one coefficient of
    frequency 0, by 128 * 64: the other rows of TRANSFORM sum up to 0, and 128 * 2^16 is a multiple of what a pass
    rounds to. The same holds on the way back, for 128 * 8.

    Nothing exceeds int32. Each row of TRANSFORM, and each column, has absolute values that sum up to at most 2^16.
    On the way there, pixels are below 2^8: the first pass sums up to 2^24, gives at most 2^13, and the second sums
    up to 2^29. On the way back, a coefficient is at most 128 away from what was transformed: centred pixels and
    differences each contribute at most 2^12 after the first pass back (2^2 * 8 * 128, whatever the frequencies),
    and so does the 128 added, so that the second sums up to less than 2^30. Rounding adds less than a hundredth to
    any of these. By the same bound nothing that an encoder can produce overflows the 16 bits of libjpeg-turbo's
    vector code.
    """

    divisors: Tensor
    transform: Tensor

    def __init__(self, shape: tuple[int, int], quality: int) -> None:
        """`shape` (h, w) of the images, `quality` 1..100; CodecError for another quality."""
        super().__init__()
        self.shape = shape
        self.quality = quality
        # Integers stay what they are when a network's weights change their type. And they are here at once, also
        # in a network that is made without storage and gets its weights later.
        divisors = torch.tensor(divisors_from_quality(quality), dtype=torch.int32, device="cpu")
        transform = torch.tensor(TRANSFORM, dtype=torch.int32, device="cpu")
        self.register_buffer("divisors", divisors[:, :, None], persistent=False)
        self.register_buffer("transform", transform, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, h, w) -> (n, h, w), integers 0..255 as int32."""
        blocks = _blocks_from_pixels(pixels.to(torch.int32))
        for shift in _FORWARD_SHIFTS:
            blocks = _pass(blocks, self.transform, shift)
        blocks[0, 0] -= 128 * 64
        # Round half away from 0. libjpeg-turbo multiplies by a reciprocal, with corrections that make it this.
        steps = 8 * self.divisors
        blocks.addcmul_(blocks.sign(), steps // 2)
        blocks.div_(steps, rounding_mode="trunc")
        blocks *= self.divisors
        blocks[0, 0] += 128 * 8
        blocks = blocks.transpose(0, 1)
        for shift in _INVERSE_SHIFTS:
            blocks = _pass(blocks, self.transform.T, shift)
        return _pixels_from_blocks(blocks.transpose(0, 1).clamp_(0, 255), self.shape)

    def extra_repr(self) -> str:
        """What print(network) shows."""
        return f"shape={self.shape}, quality={self.quality}"


def _pass(blocks: Tensor, matrix: Tensor, shift: int) -> Tensor:
    """Multiply the second axis of blocks (8, 8, n) by a matrix, drop `shift` bits, and put that axis first.

    Two passes therefore take both axes and leave them in their places, the second axis taken first.
    """
    columns = matrix[:, :, None, None].unbind(1)
    total = columns[0] * blocks[:, 0]
    for column, values in zip(columns[1:], blocks.unbind(1)[1:], strict=True):
        total.addcmul_(column, values)
    total += 1 << (shift - 1)  # rounds instead of cutting off
    total >>= shift
    return total


def _blocks_from_pixels(pixels: Tensor) -> Tensor:
    """Images (n, h, w), filled up by repeating the last row and column, as blocks (8, 8, n * blocks)."""
    count, h, w = pixels.shape
    below, right = -h % 8, -w % 8
    if below:
        pixels = torch.cat((pixels, pixels[:, -1:].expand(-1, below, -1)), 1)
    if right:
        pixels = torch.cat((pixels, pixels[:, :, -1:].expand(-1, -1, right)), 2)
    cut = pixels.reshape(count, (h + below) // 8, 8, (w + right) // 8, 8)
    return cut.permute(2, 4, 0, 1, 3).reshape(8, 8, -1)


def _pixels_from_blocks(blocks: Tensor, shape: tuple[int, int]) -> Tensor:
    """The images (n, h, w) that `_blocks_from_pixels` made blocks of."""
    h, w = shape
    down, across = -(-h // 8), -(-w // 8)
    images = blocks.reshape(8, 8, -1, down, across).permute(2, 3, 0, 4, 1).reshape(-1, down * 8, across * 8)
    return images[:, :h, :w]
