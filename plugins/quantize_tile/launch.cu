#include "quantize_tile/launch.h"

#include "quantize_tile/kernel.cuh"

namespace bottlekit {

cudaError_t launch_quantize_tile(float const* features, int images, QuantizeTileOptions options, uint8_t* canvases,
                                 float* ranges, int32_t* status, cudaStream_t stream) {
  if (images == 0) return cudaSuccess;
  bottlekit_quantize_tile<<<images, kQuantizeTileThreads, 0, stream>>>(features, options, canvases, ranges, status);
  return cudaGetLastError();
}

}  // namespace bottlekit
