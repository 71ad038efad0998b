// A double of what the plugins use of TensorRT, declared from the documented signatures: IPluginV2DynamicExt as in
// 8.2 to 8.6, IPluginV3 as in 10 and 11. It has nothing that the real headers lack.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1 };
using PluginFormat = TensorFormat;
enum class PluginFieldType : int32_t { kFLOAT16 = 0, kFLOAT32 = 1, kFLOAT64 = 2, kINT8 = 3, kINT16 = 4, kINT32 = 5 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };
enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };

struct Dims {
  int32_t nbDims;
  int64_t d[8];
};
class IDimensionExpr {
 public:
  virtual bool isConstant() const noexcept = 0;
  virtual int64_t getConstantValue() const noexcept = 0;

 protected:
  virtual ~IDimensionExpr() noexcept = default;
};
struct DimsExprs {
  int32_t nbDims;
  IDimensionExpr const* d[8];
};
class IExprBuilder {
 public:
  virtual IDimensionExpr const* constant(int64_t value) noexcept = 0;

 protected:
  virtual ~IExprBuilder() noexcept = default;
};
struct PluginTensorDesc {
  Dims dims;
  DataType type;
  TensorFormat format;
  float scale;
};
struct DynamicPluginTensorDesc {
  PluginTensorDesc desc;
  Dims min, max;
};
class PluginField {
 public:
  char const* name;
  void const* data;
  PluginFieldType type;
  int32_t length;
  PluginField(char const* const name_ = nullptr, void const* const data_ = nullptr,
              PluginFieldType const type_ = PluginFieldType::kFLOAT16, int32_t const length_ = 0) noexcept
      : name(name_), data(data_), type(type_), length(length_) {}
};
struct PluginFieldCollection {
  int32_t nbFields;
  PluginField const* fields;
};
class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, char const* message) noexcept = 0;
  virtual ~ILogger() = default;
};

// --- generation 2
class IPluginV2 {
 public:
  virtual char const* getPluginType() const noexcept = 0;
  virtual char const* getPluginVersion() const noexcept = 0;
  virtual int32_t getNbOutputs() const noexcept = 0;
  virtual int32_t initialize() noexcept = 0;
  virtual void terminate() noexcept = 0;
  virtual std::size_t getSerializationSize() const noexcept = 0;
  virtual void serialize(void* buffer) const noexcept = 0;
  virtual void destroy() noexcept = 0;
  virtual IPluginV2* clone() const noexcept = 0;
  virtual void setPluginNamespace(char const* name) noexcept = 0;
  virtual char const* getPluginNamespace() const noexcept = 0;

 protected:
  virtual ~IPluginV2() noexcept = default;
};
class IPluginV2Ext : public IPluginV2 {
 public:
  virtual DataType getOutputDataType(int32_t index, DataType const* types, int32_t count) const noexcept = 0;
  IPluginV2Ext* clone() const noexcept override = 0;
};
class IPluginV2DynamicExt : public IPluginV2Ext {
 public:
  IPluginV2DynamicExt* clone() const noexcept override = 0;
  virtual DimsExprs getOutputDimensions(int32_t index, DimsExprs const* inputs, int32_t count,
                                        IExprBuilder& builder) noexcept = 0;
  virtual bool supportsFormatCombination(int32_t position, PluginTensorDesc const* all, int32_t inputs,
                                         int32_t outputs) noexcept = 0;
  virtual void configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputs, DynamicPluginTensorDesc const* out,
                               int32_t outputs) noexcept = 0;
  virtual std::size_t getWorkspaceSize(PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out,
                                       int32_t outputs) const noexcept = 0;
  virtual int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
                          void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};
class IPluginCreator {
 public:
  virtual char const* getPluginName() const noexcept = 0;
  virtual char const* getPluginVersion() const noexcept = 0;
  virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
  virtual IPluginV2* createPlugin(char const* name, PluginFieldCollection const* fields) noexcept = 0;
  virtual IPluginV2* deserializePlugin(char const* name, void const* data, std::size_t size) noexcept = 0;
  virtual void setPluginNamespace(char const* name) noexcept = 0;
  virtual char const* getPluginNamespace() const noexcept = 0;
  virtual ~IPluginCreator() = default;
};

// --- generation 3
class IPluginCapability {
 public:
  virtual ~IPluginCapability() noexcept = default;
};
class IPluginResourceContext;
class IPluginV3 {
 public:
  virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
  virtual IPluginV3* clone() noexcept = 0;
  virtual ~IPluginV3() noexcept = default;
};
class IPluginV3OneCore : public IPluginCapability {
 public:
  virtual char const* getPluginName() const noexcept = 0;
  virtual char const* getPluginVersion() const noexcept = 0;
  virtual char const* getPluginNamespace() const noexcept = 0;
};
class IPluginV3OneBuild : public IPluginCapability {
 public:
  virtual int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputs,
                                  DynamicPluginTensorDesc const* out, int32_t outputs) noexcept = 0;
  virtual int32_t getOutputDataTypes(DataType* types, int32_t outputs, DataType const* input_types,
                                     int32_t inputs) const noexcept = 0;
  virtual int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const* shape_inputs,
                                  int32_t shape_count, DimsExprs* outputs, int32_t output_count,
                                  IExprBuilder& builder) noexcept = 0;
  virtual bool supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* all, int32_t inputs,
                                         int32_t outputs) noexcept = 0;
  virtual int32_t getNbOutputs() const noexcept = 0;
};
class IPluginV3OneRuntime : public IPluginCapability {
 public:
  virtual int32_t onShapeChange(PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out,
                                int32_t outputs) noexcept = 0;
  virtual int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
                          void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
  virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
  virtual PluginFieldCollection const* getFieldsToSerialize() noexcept = 0;
};
class IPluginCreatorV3One {
 public:
  virtual IPluginV3* createPlugin(char const* name, PluginFieldCollection const* fields,
                                  TensorRTPhase phase) noexcept = 0;
  virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
  virtual char const* getPluginName() const noexcept = 0;
  virtual char const* getPluginVersion() const noexcept = 0;
  virtual char const* getPluginNamespace() const noexcept = 0;
  virtual ~IPluginCreatorV3One() = default;
};

// The registry, as far as a plugin library sees it: of both generations at once.
class IPluginRegistry {
 public:
  virtual bool registerCreator(IPluginCreator& creator, char const* pluginNamespace) noexcept = 0;
  virtual bool registerCreator(IPluginCreatorV3One& creator, char const* pluginNamespace) noexcept = 0;
  virtual ~IPluginRegistry() = default;
};

}  // namespace nvinfer1

extern "C" nvinfer1::ILogger* getLogger() noexcept;
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
