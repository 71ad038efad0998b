// A double of libcuda, the driver API, for machines without a GPU: a launch runs the kernels' own text on the CPU.
// Addresses are those of the libcudart double, whose "device" memory is heap memory; it is told where that library's
// queue is, so that a stream that is being recorded records launches, too.
#include "../plugins/cuda_on_host.h"

#include <cstring>
#include <map>
#include <string>

#include "quantize_tile/kernel.cuh"

namespace {

constexpr int kOk = 0, kInvalid = 1, kInvalidImage = 200, kNoContext = 201, kNotFound = 500;
// What the double takes for an image of this GPU; anything else is of another.
constexpr char kImage[] = "image for the double";

struct Module {
  int magic;
};
struct Launch {
  unsigned images, threads;
  const float* features;
  bottlekit::QuantizeTileOptions options;
  uint8_t* canvases;
  float* ranges;
  int32_t* status;
};

int live_modules = 0, launched = 0, context_is_current = 1;
std::vector<Launch> queued;
using Call = void (*)(int);
void (*enqueue)(Call, int) = nullptr;

void run(int number) {
  const Launch& one = queued[number];
  // The grid of the kernel is one block an image; threads of the CPU are dear, so a block has fewer here.
  launch({one.images, 1}, one.threads < 32 ? one.threads : 32, bottlekit_quantize_tile, one.features, one.options,
         one.canvases, one.ranges, one.status);
}

}  // namespace

extern "C" {

void double_set_enqueue(void (*function)(Call, int)) { enqueue = function; }
void double_set_context(int current) { context_is_current = current; }
int double_live_modules() { return live_modules; }
int double_launched() { return launched; }

int cuGetErrorString(int error, const char** text) {
  static const std::map<int, const char*> words = {{kInvalid, "invalid argument"},
                                                   {kInvalidImage, "device kernel image is invalid"},
                                                   {kNoContext, "invalid device context"},
                                                   {kNotFound, "named symbol not found"}};
  const auto found = words.find(error);
  if (found == words.end()) return kInvalid;
  *text = found->second;
  return kOk;
}
int cuCtxGetCurrent(void** context) {
  static int one;
  *context = context_is_current ? &one : nullptr;
  return kOk;
}
int cuModuleLoadData(void** module, const void* image) {
  if (!context_is_current) return kNoContext;
  if (std::strcmp(static_cast<const char*>(image), kImage) != 0) return kInvalidImage;
  *module = new Module{0x30d};
  ++live_modules;
  return kOk;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (static_cast<Module*>(module)->magic != 0x30d) return kInvalid;
  if (std::string(name) != "bottlekit_quantize_tile") return kNotFound;
  *function = module;
  return kOk;
}
int cuModuleUnload(void* module) {
  if (static_cast<Module*>(module)->magic != 0x30d) return kInvalid;
  delete static_cast<Module*>(module);
  --live_modules;
  return kOk;
}
int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra) {
  if (static_cast<Module*>(function)->magic != 0x30d || extra != nullptr || stream == nullptr) return kInvalid;
  if (grid_x == 0 || grid_y != 1 || grid_z != 1 || shared != 0) return kInvalid;
  if (block_x == 0 || block_x % bottlekit::kWarp != 0 || block_x > bottlekit::kQuantizeTileThreads || block_y != 1 ||
      block_z != 1)
    return kInvalid;
  queued.push_back({grid_x, block_x, *static_cast<const float**>(arguments[0]),
                    *static_cast<bottlekit::QuantizeTileOptions*>(arguments[1]), *static_cast<uint8_t**>(arguments[2]),
                    *static_cast<float**>(arguments[3]), *static_cast<int32_t**>(arguments[4])});
  ++launched;
  const int number = static_cast<int>(queued.size()) - 1;
  if (enqueue != nullptr) {
    enqueue(run, number);
  } else {
    run(number);
  }
  return kOk;
}

}  // extern "C"
