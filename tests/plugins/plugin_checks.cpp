// What TensorRT does with a plugin, done with the double: make it, ask it, run it, write it, read it. The launches run
// the kernels on the CPU. One line "ok NAME" for each check that holds; the first that fails ends the program.
#include <cmath>
#include <functional>
#include <memory>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "cuda_on_host.h"

#include "quantize_tile/kernel.cuh"
#include "quantize_tile/launch.h"
#include "untile_dequantize/kernel.cuh"
#include "untile_dequantize/launch.h"

#include <NvInfer.h>

using namespace nvinfer1;

static std::string logged;
struct Logger : ILogger {
  void log(Severity, char const* message) noexcept override { logged = message; }
} logger;
extern "C" ILogger* getLogger() noexcept { return &logger; }

struct Registry : IPluginRegistry {
  std::vector<IPluginCreator*> v2;
  std::vector<IPluginCreatorV3One*> v3;
  bool right_namespaces = true;
  bool registerCreator(IPluginCreator& creator, char const* name) noexcept override {
    v2.push_back(&creator);
    // As TensorRT does: the namespace of the registration becomes the creator's.
    creator.setPluginNamespace(name);
    right_namespaces = right_namespaces && std::strcmp(name, "bottlekit") == 0;
    return true;
  }
  bool registerCreator(IPluginCreatorV3One& creator, char const* name) noexcept override {
    v3.push_back(&creator);
    right_namespaces = right_namespaces && std::strcmp(name, creator.getPluginNamespace()) == 0;
    return true;
  }
};
// Plugins register before main, whichever order the files are initialised in.
static Registry& registry() {
  static Registry all;
  return all;
}
extern "C" IPluginRegistry* getPluginRegistry() noexcept { return &registry(); }

namespace bottlekit {
cudaError_t launch_quantize_tile(float const* features, int images, QuantizeTileOptions options, uint8_t* canvases,
                                 float* ranges, int32_t* status, cudaStream_t) {
  if (images > 1000) return cudaErrorInvalidValue;
  launch({(unsigned)images, 1}, 32, bottlekit_quantize_tile, features, options, canvases, ranges, status);
  return cudaSuccess;
}
cudaError_t launch_untile_dequantize(uint8_t const* canvases, float const* ranges, int images,
                                     UntileDequantizeOptions options, float* features, int32_t* status,
                                     cudaStream_t) {
  std::memset(status, 0, images * sizeof(int32_t));
  launch({2, (unsigned)images}, 32, bottlekit_untile_dequantize, canvases, ranges, options, features, status);
  return cudaSuccess;
}
}  // namespace bottlekit

static void check(bool holds, char const* name) {
  if (!holds) {
    std::printf("FAILED %s (logged: %s)\n", name, logged.c_str());
    std::exit(1);
  }
  std::printf("ok %s\n", name);
}
static bool has_logged(char const* words) { return logged.find(words) != std::string::npos; }

struct Dimension : IDimensionExpr {
  int64_t value;
  bool fixed;
  Dimension(int64_t v, bool f) : value(v), fixed(f) {}
  bool isConstant() const noexcept override { return fixed; }
  int64_t getConstantValue() const noexcept override { return value; }
};
struct Builder : IExprBuilder {
  std::vector<std::unique_ptr<Dimension>> made;
  IDimensionExpr const* constant(int64_t value) noexcept override {
    made.push_back(std::make_unique<Dimension>(value, true));
    return made.back().get();
  }
};

constexpr int kImages = 2, kC = 3, kH = 5, kW = 7;
static Dimension n(-1, false), c(kC, true), h(kH, true), w(kW, true), free_h(-1, false);

static PluginTensorDesc desc(std::initializer_list<int64_t> dims, DataType type = DataType::kFLOAT,
                             TensorFormat format = TensorFormat::kLINEAR) {
  PluginTensorDesc one{};
  one.dims.nbDims = (int)dims.size();
  int i = 0;
  for (int64_t d : dims) one.dims.d[i++] = d;
  one.type = type;
  one.format = format;
  return one;
}

struct Attributes {
  int32_t bits = 8, static_range = 0, channels = kC, height = kH, width = kW;
  float low = 0, high = 1;
  std::vector<PluginField> fields;
  PluginFieldCollection collection{};
  PluginFieldCollection const* quantize() {
    fields = {{"bits", &bits, PluginFieldType::kINT32, 1},
              {"static_range", &static_range, PluginFieldType::kINT32, 1},
              {"low", &low, PluginFieldType::kFLOAT32, 1},
              {"high", &high, PluginFieldType::kFLOAT32, 1}};
    return all();
  }
  PluginFieldCollection const* dequantize() {
    fields = {{"bits", &bits, PluginFieldType::kINT32, 1},
              {"channels", &channels, PluginFieldType::kINT32, 1},
              {"height", &height, PluginFieldType::kINT32, 1},
              {"width", &width, PluginFieldType::kINT32, 1}};
    return all();
  }
  PluginFieldCollection const* all() {
    collection = {(int32_t)fields.size(), fields.data()};
    return &collection;
  }
};

static std::vector<float> feature() {
  std::vector<float> values(kImages * kC * kH * kW);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin((float)i) * (i < 105 ? 1.0f : 3.0f);
  return values;
}

// Through whichever generation: out and back must give every value within half a step.
template <class Run>
static void there_and_back(Run quantize, Run dequantize, char const* name) {
  std::vector<float> in = feature(), out(in.size()), ranges(2 * kImages);
  std::vector<int32_t> status(kImages, 9), back(kImages, 9);
  bottlekit::Tiling const tiling(kC, kH, kW);
  std::vector<uint8_t> words(kImages * tiling.padded_size());
  PluginTensorDesc const f = desc({kImages, kC, kH, kW}), k = desc({kImages, tiling.padded_size() / 4}, DataType::kINT32);
  PluginTensorDesc const in1[] = {f}, in2[] = {k, desc({kImages, 2})};
  void const* q_in[] = {in.data()};
  void* q_out[] = {words.data(), ranges.data(), status.data()};
  void const* d_in[] = {words.data(), ranges.data()};
  void* d_out[] = {out.data(), back.data()};
  check(quantize(in1, q_in, q_out) == 0 && status == std::vector<int32_t>(kImages, 0), name);
  check(dequantize(in2, d_in, d_out) == 0 && back == std::vector<int32_t>(kImages, 0), name);
  bool close = true;
  for (std::size_t i = 0; i < in.size(); ++i) {
    float const step = (ranges[i < 105 ? 1 : 3] - ranges[i < 105 ? 0 : 2]) / 255.0f;
    close = close && std::fabs(in[i] - out[i]) <= 0.5001f * step;
  }
  check(close, name);
}

template <class Creator>
static Creator* find(std::vector<Creator*> const& all, char const* name) {
  for (Creator* one : all) {
    if (std::strcmp(one->getPluginName(), name) == 0) return one;
  }
  std::printf("FAILED no creator %s\n", name);
  std::exit(1);
}

static void generation2() {
  auto* quantize = find(registry().v2, "QuantizeTile");
  auto* dequantize = find(registry().v2, "UntileDequantize");
  check(std::strcmp(quantize->getPluginNamespace(), "bottlekit") == 0, "v2 namespace");
  check(quantize->getFieldNames()->nbFields == 4, "v2 field names");
  Attributes attributes;
  auto* q = static_cast<IPluginV2DynamicExt*>(quantize->createPlugin("q", attributes.quantize()));
  auto* d = static_cast<IPluginV2DynamicExt*>(dequantize->createPlugin("d", attributes.dequantize()));
  check(q && d, "v2 create");

  Builder builder;
  DimsExprs const in{4, {&n, &c, &h, &w}};
  check(q->getOutputDimensions(0, &in, 1, builder).d[1]->getConstantValue() == 35, "v2 words");
  check(q->getOutputDimensions(1, &in, 1, builder).d[1]->getConstantValue() == 2, "v2 range");
  check(q->getOutputDimensions(2, &in, 1, builder).nbDims == 1, "v2 status");
  DimsExprs const open{4, {&n, &c, &free_h, &w}};
  check(q->getOutputDimensions(0, &open, 1, builder).nbDims == -1 && has_logged("h must be fixed"), "v2 free size");
  check(q->getOutputDimensions(0, &in, 2, builder).nbDims == -1, "v2 wrong number of inputs");
  DimsExprs const flat{2, {&n, &c}};
  check(q->getOutputDimensions(0, &flat, 1, builder).nbDims == -1 && has_logged("(n, c, h, w)"), "v2 wrong rank");

  PluginTensorDesc const good[] = {desc({1, 3, 5, 7}), desc({1, 35}, DataType::kINT32), desc({1, 2}),
                                   desc({1}, DataType::kINT32)};
  for (int i = 0; i < 4; ++i) check(q->supportsFormatCombination(i, good, 1, 3), "v2 formats");
  PluginTensorDesc const half[] = {desc({1, 3, 5, 7}, DataType::kHALF)};
  PluginTensorDesc const packed[] = {desc({1, 3, 5, 7}, DataType::kFLOAT, TensorFormat::kCHW2)};
  check(!q->supportsFormatCombination(0, half, 1, 3), "v2 half is refused");
  check(!q->supportsFormatCombination(0, packed, 1, 3), "v2 packed is refused");

  auto run = [](IPluginV2DynamicExt* plugin) {
    return std::function<int(PluginTensorDesc const*, void const* const*, void* const*)>(
        [plugin](PluginTensorDesc const* descs, void const* const* inputs, void* const* outputs) {
          return plugin->enqueue(descs, nullptr, inputs, outputs, nullptr, nullptr);
        });
  };
  there_and_back(run(q), run(d), "v2 there and back");
  PluginTensorDesc const many = desc({2000, 3, 5, 7});
  void const* none[] = {nullptr};
  void* nothing[] = {nullptr, nullptr, nullptr};
  check(q->enqueue(&many, nullptr, none, nothing, nullptr, nullptr) != 0 && has_logged("CUDA says"), "v2 launch fails");

  std::vector<char> bytes(q->getSerializationSize());
  q->serialize(bytes.data());
  auto* again = static_cast<IPluginV2DynamicExt*>(quantize->deserializePlugin("q", bytes.data(), bytes.size()));
  check(again != nullptr, "v2 deserialise");
  std::vector<char> same(again->getSerializationSize());
  again->serialize(same.data());
  check(bytes == same, "v2 the same again");
  check(!quantize->deserializePlugin("q", bytes.data(), bytes.size() - 1) && has_logged("another size"), "v2 short");
  check(!quantize->deserializePlugin("q", nullptr, bytes.size()), "v2 nothing");
  bytes[0] ^= 1;
  check(!quantize->deserializePlugin("q", bytes.data(), bytes.size()) && has_logged("another plugin"), "v2 foreign");
  bytes[0] ^= 1;
  bytes[8] = 99;
  check(!quantize->deserializePlugin("q", bytes.data(), bytes.size()) && has_logged("bits must be"), "v2 damaged");

  auto* copy = q->clone();
  copy->setPluginNamespace("other");
  check(std::strcmp(q->getPluginNamespace(), "bottlekit") == 0, "v2 a copy is its own");
  check(std::strcmp(copy->getPluginNamespace(), "other") == 0, "v2 the copy's namespace");
  for (IPluginV2* plugin : {(IPluginV2*)q, (IPluginV2*)d, (IPluginV2*)again, (IPluginV2*)copy}) plugin->destroy();
}

static void generation3() {
  auto* quantize = find(registry().v3, "QuantizeTile");
  auto* dequantize = find(registry().v3, "UntileDequantize");
  Attributes attributes;
  std::unique_ptr<IPluginV3> q(quantize->createPlugin("q", attributes.quantize(), TensorRTPhase::kBUILD));
  std::unique_ptr<IPluginV3> d(dequantize->createPlugin("d", attributes.dequantize(), TensorRTPhase::kBUILD));
  check(q && d, "v3 create");
  auto build = [](auto& p) { return dynamic_cast<IPluginV3OneBuild*>(p->getCapabilityInterface(PluginCapabilityType::kBUILD)); };
  auto runtime = [](auto& p) { return dynamic_cast<IPluginV3OneRuntime*>(p->getCapabilityInterface(PluginCapabilityType::kRUNTIME)); };
  auto* core = dynamic_cast<IPluginV3OneCore*>(q->getCapabilityInterface(PluginCapabilityType::kCORE));
  check(core && build(q) && runtime(q), "v3 capabilities");
  check(std::strcmp(core->getPluginNamespace(), "bottlekit") == 0, "v3 namespace");

  Builder builder;
  DimsExprs const in{4, {&n, &c, &h, &w}}, open{4, {&n, &free_h, &h, &w}};
  DimsExprs out[3]{};
  check(build(q)->getOutputShapes(&in, 1, nullptr, 0, out, 3, builder) == 0, "v3 shapes");
  check(out[0].d[1]->getConstantValue() == 35 && out[1].nbDims == 2 && out[2].nbDims == 1, "v3 shapes are right");
  check(build(q)->getOutputShapes(&open, 1, nullptr, 0, out, 3, builder) != 0 && has_logged("c must be fixed"), "v3 free size");
  DataType types[3];
  check(build(q)->getOutputDataTypes(types, 3, nullptr, 1) == 0 && types[1] == DataType::kFLOAT, "v3 types");
  DimsExprs const words{2, {&n, builder.constant(35)}}, wrong{2, {&n, builder.constant(36)}}, range{2, {&n, builder.constant(2)}};
  DimsExprs const good[] = {words, range}, bad[] = {wrong, range};
  check(build(d)->getOutputShapes(good, 2, nullptr, 0, out, 2, builder) == 0 && out[0].d[3]->getConstantValue() == kW, "v3 feature's shape");
  check(build(d)->getOutputShapes(bad, 2, nullptr, 0, out, 2, builder) != 0 && has_logged("not of this size"), "v3 another canvas");

  auto run = [&](auto& p) {
    auto* one = runtime(p);
    return std::function<int(PluginTensorDesc const*, void const* const*, void* const*)>(
        [one](PluginTensorDesc const* descs, void const* const* inputs, void* const* outputs) {
          return one->enqueue(descs, nullptr, inputs, outputs, nullptr, nullptr);
        });
  };
  there_and_back(run(q), run(d), "v3 there and back");

  auto const* fields = runtime(q)->getFieldsToSerialize();
  std::unique_ptr<IPluginV3> again(quantize->createPlugin("q", fields, TensorRTPhase::kRUNTIME));
  check(again != nullptr, "v3 from what was serialised");
  std::unique_ptr<IPluginV3> attached(runtime(q)->attachToContext(nullptr));
  check(attached && attached.get() != q.get(), "v3 a copy for each context");
}

static void bad_attributes() {
  auto* v2 = find(registry().v2, "QuantizeTile");
  auto* v3 = find(registry().v3, "QuantizeTile");
  auto refused = [&](Attributes& attributes, char const* words) {
    logged.clear();
    bool const one = v2->createPlugin("q", attributes.all()) == nullptr && has_logged(words);
    logged.clear();
    return one && v3->createPlugin("q", attributes.all(), TensorRTPhase::kBUILD) == nullptr && has_logged(words);
  };
  for (int32_t bits : {0, 9, -1}) {
    Attributes a;
    a.bits = bits;
    a.quantize();
    check(refused(a, "bits must be from 1 to 8"), "bits out of range");
  }
  Attributes missing;
  missing.quantize();
  missing.fields.pop_back();
  check(refused(missing, "'high' is missing"), "an attribute is missing");
  Attributes typed;
  typed.quantize();
  typed.fields[0].type = PluginFieldType::kFLOAT32;
  check(refused(typed, "'bits' is of another type"), "an attribute of another type");
  Attributes order;
  order.static_range = 1;
  order.low = 2;
  order.quantize();
  check(refused(order, "low must be below high"), "a range the wrong way round");
  Attributes endless;
  endless.high = std::numeric_limits<float>::infinity();
  endless.quantize();
  check(refused(endless, "must be finite"), "an endless range");
  check(v2->createPlugin("q", nullptr) == nullptr && has_logged("no attributes"), "no attributes");
}

int main() {
  check(registry().v2.size() == 2 && registry().v3.size() == 2, "four creators");
  check(registry().right_namespaces, "registered in the namespace of the domain");
  generation2();
  generation3();
  bad_attributes();
  std::printf("done\n");
}
