// QuantizeTile as a layer of TensorRT, whichever generation of plugin it is put into.
//
//   feature (n, c, h, w) FLOAT -> words (n, padded / 4) INT32, range (n, 2) FLOAT, status (n) INT32
//
// The canvas travels as INT32 words, four codes each, because TensorRT 8.2 has no UINT8 and every version has INT32.
#ifndef BOTTLEKIT_QUANTIZE_TILE_LAYER_H
#define BOTTLEKIT_QUANTIZE_TILE_LAYER_H

#include "bottlekit/arithmetic.h"
#include "bottlekit/support.h"
#include "quantize_tile/launch.h"

namespace bottlekit {

struct QuantizeTileLayer {
  struct Attributes {
    int32_t bits;
    int32_t static_range;
    float low;
    float high;
  };

  static constexpr char const* kName = "QuantizeTile";
  static constexpr int32_t kInputs = 1;
  static constexpr int32_t kOutputs = 3;
  static constexpr AttributeField kFields[] = {
      {"bits", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, bits)},
      {"static_range", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, static_range)},
      {"low", nvinfer1::PluginFieldType::kFLOAT32, offsetof(Attributes, low)},
      {"high", nvinfer1::PluginFieldType::kFLOAT32, offsetof(Attributes, high)},
  };

  static void check(Attributes const& attributes) {
    require(attributes.bits >= 1 && attributes.bits <= 8, "bits must be from 1 to 8");
    require(attributes.static_range == 0 || attributes.static_range == 1, "static_range must be 0 or 1");
    require(is_finite(attributes.low) && is_finite(attributes.high), "low and high must be finite");
    require(attributes.static_range == 0 || attributes.low < attributes.high, "low must be below high");
  }

  static nvinfer1::DataType input_type(int32_t) { return nvinfer1::DataType::kFLOAT; }
  static nvinfer1::DataType output_type(int32_t index) {
    return index == 1 ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kINT32;
  }

  static nvinfer1::DimsExprs output_dims(int32_t index, nvinfer1::DimsExprs const* inputs,
                                         nvinfer1::IExprBuilder& builder, Attributes const&) {
    require(inputs[0].nbDims == 4, "the feature must have the dimensions (n, c, h, w)");
    nvinfer1::DimsExprs dims{};
    dims.nbDims = index == 2 ? 1 : 2;
    dims.d[0] = inputs[0].d[0];
    if (index == 0) {
      Tiling const tiling(constant_of(inputs[0].d[1], "c"), constant_of(inputs[0].d[2], "h"),
                          constant_of(inputs[0].d[3], "w"));
      dims.d[1] = builder.constant(static_cast<int32_t>(tiling.padded_size() / 4));
    }
    if (index == 1) dims.d[1] = builder.constant(2);
    return dims;
  }

  static int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const*,
                         void const* const* inputs, void* const* outputs, cudaStream_t stream,
                         Attributes const& attributes) {
    auto const& d = in[0].dims.d;
    QuantizeTileOptions const options = {static_cast<int>(d[1]), static_cast<int>(d[2]), static_cast<int>(d[3]),
                                         attributes.bits, attributes.static_range,
                                         {attributes.low, attributes.high}};
    cudaError_t const error = launch_quantize_tile(
        static_cast<float const*>(inputs[0]), static_cast<int>(d[0]), options, static_cast<uint8_t*>(outputs[0]),
        static_cast<float*>(outputs[1]), static_cast<int32_t*>(outputs[2]), stream);
    require(error == cudaSuccess, std::string("CUDA says: ") + cudaGetErrorString(error));
    return 0;
  }
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_QUANTIZE_TILE_LAYER_H
