// UntileDequantize as a layer of TensorRT, whichever generation of plugin it is put into.
//
//   words (n, padded / 4) INT32, range (n, 2) FLOAT -> feature (n, c, h, w) FLOAT, status (n) INT32
#ifndef BOTTLEKIT_UNTILE_DEQUANTIZE_LAYER_H
#define BOTTLEKIT_UNTILE_DEQUANTIZE_LAYER_H

#include "bottlekit/arithmetic.h"
#include "bottlekit/support.h"
#include "untile_dequantize/launch.h"

namespace bottlekit {

struct UntileDequantizeLayer {
  struct Attributes {
    int32_t bits;
    int32_t channels;
    int32_t height;
    int32_t width;
  };

  static constexpr char const* kName = "UntileDequantize";
  static constexpr int32_t kInputs = 2;
  static constexpr int32_t kOutputs = 2;
  static constexpr AttributeField kFields[] = {
      {"bits", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, bits)},
      {"channels", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, channels)},
      {"height", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, height)},
      {"width", nvinfer1::PluginFieldType::kINT32, offsetof(Attributes, width)},
  };

  static void check(Attributes const& attributes) {
    require(attributes.bits >= 1 && attributes.bits <= 8, "bits must be from 1 to 8");
    require(attributes.channels >= 1 && attributes.height >= 1 && attributes.width >= 1,
            "channels, height and width must be at least 1");
  }

  static nvinfer1::DataType input_type(int32_t index) {
    return index == 1 ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kINT32;
  }
  static nvinfer1::DataType output_type(int32_t index) {
    return index == 0 ? nvinfer1::DataType::kFLOAT : nvinfer1::DataType::kINT32;
  }

  static nvinfer1::DimsExprs output_dims(int32_t index, nvinfer1::DimsExprs const* inputs,
                                         nvinfer1::IExprBuilder& builder, Attributes const& attributes) {
    require(inputs[0].nbDims == 2 && inputs[1].nbDims == 2, "words and range must have two dimensions");
    Tiling const tiling(attributes.channels, attributes.height, attributes.width);
    require(constant_of(inputs[0].d[1], "the number of words") == tiling.padded_size() / 4,
            "the canvas is not of this size");
    nvinfer1::DimsExprs dims{};
    dims.nbDims = index == 0 ? 4 : 1;
    dims.d[0] = inputs[0].d[0];
    if (index == 0) {
      dims.d[1] = builder.constant(attributes.channels);
      dims.d[2] = builder.constant(attributes.height);
      dims.d[3] = builder.constant(attributes.width);
    }
    return dims;
  }

  static int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const*,
                         void const* const* inputs, void* const* outputs, cudaStream_t stream,
                         Attributes const& attributes) {
    UntileDequantizeOptions const options = {attributes.channels, attributes.height, attributes.width,
                                             attributes.bits};
    cudaError_t const error = launch_untile_dequantize(
        static_cast<uint8_t const*>(inputs[0]), static_cast<float const*>(inputs[1]),
        static_cast<int>(in[0].dims.d[0]), options, static_cast<float*>(outputs[0]),
        static_cast<int32_t*>(outputs[1]), stream);
    require(error == cudaSuccess, std::string("CUDA says: ") + cudaGetErrorString(error));
    return 0;
  }
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_UNTILE_DEQUANTIZE_LAYER_H
