// features (n, c, h, w) float32 -> canvases (n, padded) uint8, ranges (n, 2) float32, status (n) int32
//
// One block an image: its threads find the range together, then each writes its part of the canvas. A feature that
// is offloaded has some thousand values, so one block is busy for microseconds; batches fill the GPU.
#ifndef BOTTLEKIT_QUANTIZE_TILE_KERNEL_CUH
#define BOTTLEKIT_QUANTIZE_TILE_KERNEL_CUH

#include "quantize_tile/options.h"

namespace bottlekit {

constexpr int kQuantizeTileThreads = 512;
constexpr int kWarp = 32;

}  // namespace bottlekit

extern "C" __global__ void __launch_bounds__(bottlekit::kQuantizeTileThreads)
    bottlekit_quantize_tile(const float* features, bottlekit::QuantizeTileOptions options, uint8_t* canvases,
                            float* ranges, int32_t* status) {
  using namespace bottlekit;
  __shared__ float lows[kQuantizeTileThreads / kWarp], highs[kQuantizeTileThreads / kWarp];
  __shared__ int bad;
  const Tiling tiling(options.channels, options.height, options.width);
  const int64_t size = tiling.feature_size();
  const float* feature = features + blockIdx.x * size;
  uint8_t* canvas = canvases + blockIdx.x * tiling.padded_size();

  if (threadIdx.x == 0) bad = 0;
  __syncthreads();

  // A non-finite value must not win a comparison: it is counted, and left out.
  float low = kLargest, high = -kLargest;
  int not_finite = 0;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    const float value = feature[i];
    if (!is_finite(value)) {
      not_finite = 1;
      continue;
    }
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float other_low = __shfl_down_sync(0xffffffffu, low, offset);
    const float other_high = __shfl_down_sync(0xffffffffu, high, offset);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  if (not_finite) bad = 1;
  if (threadIdx.x % kWarp == 0) {
    lows[threadIdx.x / kWarp] = low;
    highs[threadIdx.x / kWarp] = high;
  }
  __syncthreads();
  low = lows[0];
  high = highs[0];
  for (int warp = 1; warp < (int)blockDim.x / kWarp; ++warp) {
    low = lows[warp] < low ? lows[warp] : low;
    high = highs[warp] > high ? highs[warp] : high;
  }
  Range range = {without_negative_zero(low), without_negative_zero(high)};
  if (options.static_range) range = options.range;
  const bool failed = bad != 0;
  if (failed) range = Range{0.0f, 0.0f};

  const Quantizer quantizer(range, options.bits);
  for (int64_t position = threadIdx.x; position < tiling.padded_size(); position += blockDim.x) {
    const int64_t index = position < tiling.canvas_size() ? tiling.feature_index(position) : -1;
    canvas[position] = failed || index < 0 ? 0 : quantizer.code_of(clamp_to(feature[index], range));
  }
  if (threadIdx.x == 0) {
    ranges[2 * blockIdx.x] = range.low;
    ranges[2 * blockIdx.x + 1] = range.high;
    status[blockIdx.x] = failed ? kNotFinite : 0;
  }
}

#endif  // BOTTLEKIT_QUANTIZE_TILE_KERNEL_CUH
