// What the kernel is told, the same for every image of a batch.
#ifndef BOTTLEKIT_UNTILE_DEQUANTIZE_OPTIONS_H
#define BOTTLEKIT_UNTILE_DEQUANTIZE_OPTIONS_H

#include "bottlekit/arithmetic.h"

namespace bottlekit {

struct UntileDequantizeOptions {
  int channels, height, width;
  int bits;
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_UNTILE_DEQUANTIZE_OPTIONS_H
