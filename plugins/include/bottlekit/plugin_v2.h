// A layer as IPluginV2DynamicExt: TensorRT 8.2 to 8.6.
#ifndef BOTTLEKIT_PLUGIN_V2_H
#define BOTTLEKIT_PLUGIN_V2_H

#include <memory>

#include "bottlekit/support.h"

namespace bottlekit {

// What is in a serialised engine. The first field is checked first: an engine of another layout is refused by it.
template <class Layer>
struct Record {
  uint32_t magic;
  uint32_t size;
  typename Layer::Attributes attributes;
};

constexpr uint32_t kMagic = 0x624b5031;  // "1PKb"

template <class Layer>
class PluginV2 final : public nvinfer1::IPluginV2DynamicExt {
 public:
  using Attributes = typename Layer::Attributes;

  explicit PluginV2(Attributes const& attributes) : attributes_(attributes) {}

  // --- what it is
  char const* getPluginType() const noexcept override { return Layer::kName; }
  char const* getPluginVersion() const noexcept override { return kPluginVersion; }
  void setPluginNamespace(char const* name) noexcept override {
    guarded("setPluginNamespace", 0, [&] {
      namespace_ = name ? name : "";
      return 0;
    });
  }
  char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
  int32_t getNbOutputs() const noexcept override { return Layer::kOutputs; }
  nvinfer1::IPluginV2DynamicExt* clone() const noexcept override {
    return guarded<nvinfer1::IPluginV2DynamicExt*>("clone", nullptr, [&] {
      auto copy = std::make_unique<PluginV2>(attributes_);
      copy->namespace_ = namespace_;
      return copy.release();
    });
  }
  void destroy() noexcept override { delete this; }
  int32_t initialize() noexcept override { return 0; }
  void terminate() noexcept override {}

  // --- what goes in and comes out
  nvinfer1::DataType getOutputDataType(int32_t index, nvinfer1::DataType const*, int32_t) const noexcept override {
    return Layer::output_type(index);
  }
  nvinfer1::DimsExprs getOutputDimensions(int32_t index, nvinfer1::DimsExprs const* inputs, int32_t count,
                                          nvinfer1::IExprBuilder& builder) noexcept override {
    nvinfer1::DimsExprs failed{};
    failed.nbDims = -1;
    return guarded("getOutputDimensions", failed, [&] {
      require(count == Layer::kInputs, "a wrong number of inputs");
      return Layer::output_dims(index, inputs, builder, attributes_);
    });
  }
  bool supportsFormatCombination(int32_t position, nvinfer1::PluginTensorDesc const* all, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (inputs != Layer::kInputs || outputs != Layer::kOutputs) return false;
    nvinfer1::DataType const wanted =
        position < inputs ? Layer::input_type(position) : Layer::output_type(position - inputs);
    return all[position].format == nvinfer1::TensorFormat::kLINEAR && all[position].type == wanted;
  }
  void configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t, nvinfer1::DynamicPluginTensorDesc const*,
                       int32_t) noexcept override {}
  std::size_t getWorkspaceSize(nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*,
                               int32_t) const noexcept override {
    return 0;
  }

  // --- the work
  int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* out,
                  void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override {
    return guarded("enqueue", 1, [&] { return Layer::enqueue(in, out, inputs, outputs, stream, attributes_); });
  }

  // --- in a serialised engine
  std::size_t getSerializationSize() const noexcept override { return sizeof(Record<Layer>); }
  void serialize(void* buffer) const noexcept override {
    Record<Layer> const record{kMagic, sizeof(Record<Layer>), attributes_};
    std::memcpy(buffer, &record, sizeof(record));
  }

 private:
  Attributes attributes_;
  std::string namespace_ = kPluginNamespace;
};

template <class Layer>
class CreatorV2 final : public nvinfer1::IPluginCreator {
 public:
  char const* getPluginName() const noexcept override { return Layer::kName; }
  char const* getPluginVersion() const noexcept override { return kPluginVersion; }
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return fields_.get(); }
  void setPluginNamespace(char const* name) noexcept override {
    guarded("setPluginNamespace", 0, [&] {
      namespace_ = name ? name : "";
      return 0;
    });
  }
  char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  nvinfer1::IPluginV2* createPlugin(char const*, nvinfer1::PluginFieldCollection const* fields) noexcept override {
    return guarded<nvinfer1::IPluginV2*>(Layer::kName, nullptr, [&] {
      return std::make_unique<PluginV2<Layer>>(attributes_from_fields<Layer>(fields)).release();
    });
  }
  nvinfer1::IPluginV2* deserializePlugin(char const*, void const* data, std::size_t size) noexcept override {
    return guarded<nvinfer1::IPluginV2*>(Layer::kName, nullptr, [&] {
      Record<Layer> record{};
      require(data != nullptr && size == sizeof(record), "the engine holds a plugin of another size; build it again");
      std::memcpy(&record, data, sizeof(record));
      require(record.magic == kMagic && record.size == sizeof(record),
              "the engine holds another plugin, or one of another version; build it again");
      Layer::check(record.attributes);
      return std::make_unique<PluginV2<Layer>>(record.attributes).release();
    });
  }

 private:
  FieldList<Layer> fields_;
  std::string namespace_ = kPluginNamespace;
};

}  // namespace bottlekit

#endif  // BOTTLEKIT_PLUGIN_V2_H
