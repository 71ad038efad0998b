// What both generations of plugins share: telling TensorRT of an error, and attributes by name.
#ifndef BOTTLEKIT_SUPPORT_H
#define BOTTLEKIT_SUPPORT_H

#include <NvInfer.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

namespace bottlekit {

constexpr char const* kPluginVersion = "1";
// The ONNX domain of the nodes, and the plugins' namespace.
constexpr char const* kPluginNamespace = "bottlekit";

inline void report(char const* what, std::exception const& error) noexcept {
  nvinfer1::ILogger* logger = getLogger();
  if (logger == nullptr) return;
  try {
    std::string const message = std::string("bottlekit ") + what + ": " + error.what();
    logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  } catch (...) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, "bottlekit: a plugin failed, and its message did not fit");
  }
}

// Nothing may leave a noexcept override: what is thrown inside is told to TensorRT's log, and `otherwise` returned.
template <class Result, class Body>
Result guarded(char const* what, Result otherwise, Body body) noexcept {
  try {
    return body();
  } catch (std::exception const& error) {
    report(what, error);
  } catch (...) {
    report(what, std::runtime_error("something that is no exception was thrown"));
  }
  return otherwise;
}

inline void require(bool holds, std::string const& what) {
  if (!holds) throw std::invalid_argument(what);
}

// One attribute of a layer: its name, its type, and where it lies in the layer's Attributes.
struct AttributeField {
  char const* name;
  nvinfer1::PluginFieldType type;
  std::size_t offset;
};

// Attributes are plain structs of int32_t and float, so that they can be filled, written and read by their fields.
template <class Layer>
typename Layer::Attributes attributes_from_fields(nvinfer1::PluginFieldCollection const* fields) {
  typename Layer::Attributes attributes{};
  require(fields != nullptr, "no attributes were given");
  for (AttributeField const& wanted : Layer::kFields) {
    nvinfer1::PluginField const* found = nullptr;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
      if (std::strcmp(fields->fields[i].name, wanted.name) == 0) found = &fields->fields[i];
    }
    require(found != nullptr && found->data != nullptr, std::string("the attribute '") + wanted.name + "' is missing");
    require(found->type == wanted.type && found->length <= 1,
            std::string("the attribute '") + wanted.name + "' is of another type");
    std::memcpy(reinterpret_cast<char*>(&attributes) + wanted.offset, found->data, sizeof(int32_t));
  }
  Layer::check(attributes);
  return attributes;
}

// The fields of a layer, with or without values.
template <class Layer>
class FieldList {
 public:
  explicit FieldList(typename Layer::Attributes const* attributes = nullptr) {
    int32_t count = 0;
    for (AttributeField const& field : Layer::kFields) {
      void const* data = attributes ? reinterpret_cast<char const*>(attributes) + field.offset : nullptr;
      fields_[count++] = nvinfer1::PluginField(field.name, data, field.type, 1);
    }
    collection_.nbFields = count;
    collection_.fields = fields_;
  }
  FieldList(FieldList const&) = delete;
  FieldList& operator=(FieldList const&) = delete;

  nvinfer1::PluginFieldCollection const* get() const { return &collection_; }

 private:
  nvinfer1::PluginField fields_[sizeof(Layer::kFields) / sizeof(AttributeField)];
  nvinfer1::PluginFieldCollection collection_{};
};

// Registers a creator, in its own namespace, when the library is loaded. TensorRT's macro would register it without
// one, and a parser that looks for the nodes' domain would not find it.
template <class Creator>
class Registrar {
 public:
  Registrar() { getPluginRegistry()->registerCreator(creator_, kPluginNamespace); }

 private:
  Creator creator_;
};

inline int32_t constant_of(nvinfer1::IDimensionExpr const* dimension, char const* name) {
  require(dimension != nullptr && dimension->isConstant(), std::string(name) + " must be fixed; only n may vary");
  return static_cast<int32_t>(dimension->getConstantValue());
}

}  // namespace bottlekit

#endif  // BOTTLEKIT_SUPPORT_H
