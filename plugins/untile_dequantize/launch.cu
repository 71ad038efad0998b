#include "untile_dequantize/launch.h"

#include "untile_dequantize/kernel.cuh"

namespace bottlekit {

cudaError_t launch_untile_dequantize(uint8_t const* canvases, float const* ranges, int images,
                                     UntileDequantizeOptions options, float* features, int32_t* status,
                                     cudaStream_t stream) {
  if (images == 0) return cudaSuccess;
  cudaError_t const cleared = cudaMemsetAsync(status, 0, images * sizeof(int32_t), stream);
  if (cleared != cudaSuccess) return cleared;
  int64_t const size = Tiling(options.channels, options.height, options.width).feature_size();
  dim3 const grid(static_cast<unsigned>((size + kUntileDequantizeThreads - 1) / kUntileDequantizeThreads),
                  static_cast<unsigned>(images));
  bottlekit_untile_dequantize<<<grid, kUntileDequantizeThreads, 0, stream>>>(canvases, ranges, options, features,
                                                                            status);
  return cudaGetLastError();
}

}  // namespace bottlekit
