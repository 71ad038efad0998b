// The arithmetic of the codec's quantiser and tiling, one source for CUDA and for plain C++.
//
//   feature (c, h, w) float32 --range--> low, high --code_of--> codes --canvas position--> canvas (H, W) uint8
//   canvas --value_of--> feature
//
// Bit for bit what bottlekit/device/quantizer.py and tiling.py compute in numpy. Every operation is rounded once, to
// nearest: on the GPU by intrinsics, because a multiplication and an addition contracted into one would round once
// less; on the host the compiler must be told (-ffp-contract=off), and must not assume away NaN (no -ffast-math).
#ifndef BOTTLEKIT_ARITHMETIC_H
#define BOTTLEKIT_ARITHMETIC_H

#ifdef __CUDACC__
#define BOTTLEKIT_FN __host__ __device__ __forceinline__
#else
#define BOTTLEKIT_FN inline
#endif

#ifndef __CUDACC_RTC__
#include <math.h>
#include <stdint.h>
#include <string.h>
#else
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
#endif

namespace bottlekit {

BOTTLEKIT_FN float mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

BOTTLEKIT_FN float add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

BOTTLEKIT_FN float sub(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fsub_rn(a, b);
#else
  return a - b;
#endif
}

BOTTLEKIT_FN float divide(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// To the nearest integer, half to even.
BOTTLEKIT_FN float round_half_even(float value) { return rintf(value); }

BOTTLEKIT_FN uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

// Neither NaN nor infinity. From the bits, so that no compiler option can decide it.
BOTTLEKIT_FN bool is_finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

constexpr float kLargest = 3.402823466e+38f;

// What one image was quantised with.
struct Range {
  float low;
  float high;
};

// 1, or 1/2 where high - low would overflow float32.
BOTTLEKIT_FN float scale_of(Range range) {
  return (double)range.high - (double)range.low > (double)kLargest ? 0.5f : 1.0f;
}

// What of a range is the same for all its values.
struct Quantizer {
  float scale;
  float low;   // scaled
  float span;  // scaled
  float levels;

  BOTTLEKIT_FN Quantizer(Range range, int bits)
      : scale(scale_of(range)),
        low(mul(range.low, scale)),
        span(sub(mul(range.high, scale), mul(range.low, scale))),
        levels((float)((1 << bits) - 1)) {}

  // The code of a finite value within the range; 0 for every value of a constant feature.
  BOTTLEKIT_FN uint8_t code_of(float value) const {
    if (span == 0.0f) return 0;
    return (uint8_t)round_half_even(mul(divide(sub(mul(value, scale), low), span), levels));
  }

  // The value that a code stands for, never above the range's high.
  BOTTLEKIT_FN float value_of(uint8_t code, Range range) const {
    float last = mul(range.high, scale);
    float value = add(mul(divide((float)code, levels), sub(last, low)), low);
    return divide(value < last ? value : last, scale);
  }
};

BOTTLEKIT_FN float clamp_to(float value, Range range) {
  float raised = value > range.low ? value : range.low;
  return raised < range.high ? raised : range.high;
}

// -0.0 becomes 0.0: which of the two is the minimum depends on the order of the search.
BOTTLEKIT_FN float without_negative_zero(float value) { return add(value, 0.0f); }

// How channels lie on the canvas: 2^floor(k/2) rows and 2^ceil(k/2) columns of slots, k = ceil(log2(channels)).
struct Tiling {
  int channels, height, width, rows, columns;

  BOTTLEKIT_FN Tiling(int c, int h, int w) : channels(c), height(h), width(w), rows(1), columns(1) {
    int exponent = 0;
    while ((1 << exponent) < c) ++exponent;
    rows = 1 << (exponent / 2);
    columns = 1 << ((exponent + 1) / 2);
  }

  BOTTLEKIT_FN int64_t feature_size() const { return (int64_t)channels * height * width; }
  BOTTLEKIT_FN int64_t canvas_size() const { return (int64_t)rows * height * columns * width; }
  // Bytes of one image's canvas where it travels in 32-bit words.
  BOTTLEKIT_FN int64_t padded_size() const { return (canvas_size() + 3) / 4 * 4; }

  // Where in the feature the value of a canvas position lies; -1 for a spare slot.
  BOTTLEKIT_FN int64_t feature_index(int64_t position) const {
    int64_t line = position / ((int64_t)columns * width), across = position % ((int64_t)columns * width);
    int64_t channel = line / height * columns + across / width;
    if (channel >= channels) return -1;
    return (channel * height + line % height) * width + across % width;
  }

  // Where on the canvas the value of a feature index lies.
  BOTTLEKIT_FN int64_t canvas_index(int64_t index) const {
    int64_t x = index % width, y = index / width % height, channel = index / width / height;
    return (channel / columns * height + y) * columns * width + channel % columns * width + x;
  }
};

// What a status word says; 0 is well.
constexpr int32_t kNotFinite = 1;
constexpr int32_t kCodeTooLarge = 2;

}  // namespace bottlekit

#endif  // BOTTLEKIT_ARITHMETIC_H
