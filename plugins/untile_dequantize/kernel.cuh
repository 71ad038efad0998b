// canvases (n, padded) uint8, ranges (n, 2) float32 -> features (n, c, h, w) float32, status (n) int32
//
// A thread a value; blockIdx.y is the image. `status` must be 0 before.
#ifndef BOTTLEKIT_UNTILE_DEQUANTIZE_KERNEL_CUH
#define BOTTLEKIT_UNTILE_DEQUANTIZE_KERNEL_CUH

#include "untile_dequantize/options.h"

namespace bottlekit {

constexpr int kUntileDequantizeThreads = 256;

}  // namespace bottlekit

extern "C" __global__ void __launch_bounds__(bottlekit::kUntileDequantizeThreads)
    bottlekit_untile_dequantize(const uint8_t* canvases, const float* ranges,
                                bottlekit::UntileDequantizeOptions options, float* features, int32_t* status) {
  using namespace bottlekit;
  const Tiling tiling(options.channels, options.height, options.width);
  const int64_t size = tiling.feature_size();
  const int image = blockIdx.y;
  const Range range = {ranges[2 * image], ranges[2 * image + 1]};
  const Quantizer quantizer(range, options.bits);
  const bool bad_range = !is_finite(range.low) || !is_finite(range.high) || range.low > range.high;
  const uint8_t* canvas = canvases + image * tiling.padded_size();
  for (int64_t index = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; index < size;
       index += (int64_t)gridDim.x * blockDim.x) {
    const uint8_t code = canvas[tiling.canvas_index(index)];
    const bool too_large = (float)code > quantizer.levels;
    if (bad_range) atomicOr(&status[image], kNotFinite);
    if (too_large) atomicOr(&status[image], kCodeTooLarge);
    features[image * size + index] = bad_range || too_large ? 0.0f : quantizer.value_of(code, range);
  }
}

#endif  // BOTTLEKIT_UNTILE_DEQUANTIZE_KERNEL_CUH
