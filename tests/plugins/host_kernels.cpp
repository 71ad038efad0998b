// The kernels themselves, run on the CPU, for ctypes.
#include "cuda_on_host.h"

#include "quantize_tile/kernel.cuh"
#include "untile_dequantize/kernel.cuh"

using namespace bottlekit;

extern "C" int64_t padded_size(int c, int h, int w) { return Tiling(c, h, w).padded_size(); }

extern "C" void quantize_tile(const float* features, int n, int c, int h, int w, int bits, int static_range,
                              float low, float high, unsigned threads, uint8_t* canvases, float* ranges,
                              int32_t* status) {
  const QuantizeTileOptions options = {c, h, w, bits, static_range, {low, high}};
  launch({(unsigned)n, 1}, threads, bottlekit_quantize_tile, features, options, canvases, ranges, status);
}

extern "C" void untile_dequantize(const uint8_t* canvases, const float* ranges, int n, int c, int h, int w, int bits,
                                  unsigned threads, float* features, int32_t* status) {
  const UntileDequantizeOptions options = {c, h, w, bits};
  launch({2, (unsigned)n}, threads, bottlekit_untile_dequantize, canvases, ranges, options, features, status);
}

// The arithmetic alone, one value after the other: for millions of values.
extern "C" void codes_of(const float* values, int64_t count, int bits, float low, float high, uint8_t* codes) {
  const Range range = {low, high};
  const Quantizer quantizer(range, bits);
  for (int64_t i = 0; i < count; ++i) codes[i] = quantizer.code_of(clamp_to(values[i], range));
}

extern "C" void values_of(const uint8_t* codes, int64_t count, int bits, float low, float high, float* values) {
  const Range range = {low, high};
  const Quantizer quantizer(range, bits);
  for (int64_t i = 0; i < count; ++i) values[i] = quantizer.value_of(codes[i], range);
}
