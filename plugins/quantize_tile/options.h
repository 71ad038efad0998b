// What the kernel is told, the same for every image of a batch.
#ifndef BOTTLEKIT_QUANTIZE_TILE_OPTIONS_H
#define BOTTLEKIT_QUANTIZE_TILE_OPTIONS_H

#include "bottlekit/arithmetic.h"

namespace bottlekit {

struct QuantizeTileOptions {
  int channels, height, width;
  int bits;
  // 0: each image over its own minimum and maximum; 1: all over `range`, values outside moved to its ends.
  int static_range;
  Range range;
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_QUANTIZE_TILE_OPTIONS_H
