// A layer as IPluginV3: TensorRT 10 and 11.
#ifndef BOTTLEKIT_PLUGIN_V3_H
#define BOTTLEKIT_PLUGIN_V3_H

#include <memory>

#include "bottlekit/support.h"

namespace bottlekit {

template <class Layer>
class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  using Attributes = typename Layer::Attributes;

  explicit PluginV3(Attributes const& attributes) : attributes_(attributes), fields_(&attributes_) {}

  // --- what it is
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
      default: return nullptr;
    }
  }
  nvinfer1::IPluginV3* clone() noexcept override {
    return guarded<nvinfer1::IPluginV3*>("clone", nullptr,
                                         [&] { return std::make_unique<PluginV3>(attributes_).release(); });
  }
  char const* getPluginName() const noexcept override { return Layer::kName; }
  char const* getPluginVersion() const noexcept override { return kPluginVersion; }
  char const* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // --- what goes in and comes out
  int32_t getNbOutputs() const noexcept override { return Layer::kOutputs; }
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t count, nvinfer1::DataType const*,
                             int32_t) const noexcept override {
    if (count != Layer::kOutputs) return 1;
    for (int32_t i = 0; i < count; ++i) types[i] = Layer::output_type(i);
    return 0;
  }
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t count, nvinfer1::DimsExprs const*, int32_t,
                          nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded("getOutputShapes", 1, [&] {
      require(count == Layer::kInputs && output_count == Layer::kOutputs, "a wrong number of inputs or outputs");
      for (int32_t i = 0; i < output_count; ++i) outputs[i] = Layer::output_dims(i, inputs, builder, attributes_);
      return 0;
    });
  }
  bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* all, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (inputs != Layer::kInputs || outputs != Layer::kOutputs) return false;
    nvinfer1::DataType const wanted =
        position < inputs ? Layer::input_type(position) : Layer::output_type(position - inputs);
    return all[position].desc.format == nvinfer1::TensorFormat::kLINEAR && all[position].desc.type == wanted;
  }
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t,
                          nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept override {
    return 0;
  }

  // --- the work
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*,
                        int32_t) noexcept override {
    return 0;
  }
  int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out,
                  void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override {
    return guarded("enqueue", 1, [&] { return Layer::enqueue(in, out, inputs, outputs, stream, attributes_); });
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  // --- in a serialised engine
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override { return fields_.get(); }

 private:
  Attributes attributes_;
  FieldList<Layer> fields_;
};

template <class Layer>
class CreatorV3 final : public nvinfer1::IPluginCreatorV3One {
 public:
  char const* getPluginName() const noexcept override { return Layer::kName; }
  char const* getPluginVersion() const noexcept override { return kPluginVersion; }
  char const* getPluginNamespace() const noexcept override { return kPluginNamespace; }
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return fields_.get(); }
  nvinfer1::IPluginV3* createPlugin(char const*, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return guarded<nvinfer1::IPluginV3*>(Layer::kName, nullptr, [&] {
      return std::make_unique<PluginV3<Layer>>(attributes_from_fields<Layer>(fields)).release();
    });
  }

 private:
  FieldList<Layer> fields_;
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_PLUGIN_V3_H
